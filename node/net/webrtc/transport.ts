import { transportSymbol } from '@libp2p/interface'
import type { Connection, DialTransportOptions, Listener, MultiaddrConnection, PeerId, Stream, Transport } from '@libp2p/interface'
import type { ConnectionManager, Registrar } from '@libp2p/interface-internal'
import type { WebRTCTransportComponents } from '@libp2p/webrtc'
import { multiaddr } from '@multiformats/multiaddr'
import type { Multiaddr } from '@multiformats/multiaddr'
import { WebRTC } from '@multiformats/multiaddr-matcher'
import type { Endpoint } from '../../../protocols/punch/index.ts'
import { preparedUpgrader } from '../punch/prepared-upgrader.ts'
import { releaseLibrary, useLibrary } from './library.ts'

/** Over it both sides tell each other where they may be reached and which certificate they will show. */
export const SIGNALING_PROTOCOL = '/webrtc-signaling/0.0.1'

/** Connections that peers may be opening at the same time; each costs a socket and a key. */
const MAX_ANSWERS = 8
const MAX_SIGNALING_STREAMS = 2

type Answer = (stream: Stream, connection: Connection) => void

interface Inner {
  readonly transport: Transport
  readonly answer: Answer
}

/**
 * libp2p's WebRTC, loaded at the first use. Each connection begins with another one, mostly relayed, whose ends know who they are and that
 * they belong to the swarm: over it go the fingerprints of the DTLS certificates. ICE asks the swarm's own reflectors and nobody else's.
 */
export class WebRtcTransport implements Transport {
  readonly [transportSymbol] = true as const
  readonly [Symbol.toStringTag] = 'webrtc'
  readonly #components: WebRTCTransportComponents
  #reflectors: () => readonly Endpoint[] = () => []
  #inner: Promise<Inner> | null = null
  #answers = 0
  #isServing = false

  constructor(components: WebRTCTransportComponents) {
    this.#components = components
  }

  /** Lets peers open connections. `reflectors`: where public peers answer STUN's binding requests. */
  async serve(reflectors: () => readonly Endpoint[]): Promise<void> {
    this.#reflectors = reflectors
    const answer: Answer = (stream, connection) => void this.#answer(stream, connection)
    const options = { maxInboundStreams: MAX_SIGNALING_STREAMS, runOnLimitedConnection: true }
    await this.#components.registrar.handle(SIGNALING_PROTOCOL, answer, options)
    this.#isServing = true
  }

  get isServing(): boolean {
    return this.#isServing
  }

  async unserve(): Promise<void> {
    this.#isServing = false
    await this.#components.registrar.unhandle(SIGNALING_PROTOCOL)
  }

  /** Opens one to a peer to which there is another connection. Rejects when ICE finds no way, the peer does not serve, or `signal` fires. */
  async open(peer: PeerId, signal: AbortSignal): Promise<Connection> {
    return await this.dial(addressOf(peer.toString()), { signal, upgrader: this.#components.upgrader })
  }

  async dial(address: Multiaddr, options: DialTransportOptions): Promise<Connection> {
    const { transport } = await this.#load()
    // The relay in the address that was dialled carries signals only.
    const rename = (connection: MultiaddrConnection): void => {
      connection.remoteAddr = addressOf(peerOf(address))
    }
    return await transport.dial(address, { ...options, upgrader: preparedUpgrader(options.upgrader, { outbound: rename }) })
  }

  dialFilter(addresses: Multiaddr[]): Multiaddr[] {
    return addresses.filter((address) => WebRTC.exactMatch(address))
  }

  /** Peers find this one by way of its relays; an address of its own would have them do without the cheaper ways. */
  listenFilter(): Multiaddr[] {
    return []
  }

  createListener(): Listener {
    throw new Error('WebRTC has no addresses to listen on')
  }

  start(): void {}

  stop(): void {}

  /** Called by libp2p once all connections have ended. */
  async afterStop(): Promise<void> {
    const inner = this.#inner
    this.#inner = null
    const isLoaded = await inner?.then(
      () => true,
      () => false,
    )
    if (isLoaded === true) await releaseLibrary()
  }

  async #answer(stream: Stream, connection: Connection): Promise<void> {
    if (this.#answers >= MAX_ANSWERS) return stream.abort(new Error('busy with other WebRTC connections'))
    this.#answers++
    stream.addEventListener('close', () => void this.#answers--, { once: true })
    try {
      const { answer } = await this.#load()
      // The library believes the address, which only some transports prove.
      answer(stream, { remoteAddr: addressOf(connection.remotePeer.toString()), remotePeer: connection.remotePeer } as Connection)
    } catch (error) {
      stream.abort(error as Error)
    }
  }

  #load(): Promise<Inner> {
    this.#inner ??= this.#start().catch((error: Error) => {
      this.#inner = null
      throw error
    })
    return this.#inner
  }

  async #start(): Promise<Inner> {
    const webRTC = await useLibrary()
    const { peerId, logger, events, metrics, transportManager, connectionManager, upgrader } = this.#components
    let answer!: Answer
    const getConnections = (peer: PeerId): Connection[] => connectionManager.getConnections(peer).filter(({ status }) => status === 'open')
    const transport = webRTC({ rtcConfiguration: () => ({ iceServers: this.#reflectors().map(serverOf) }) })({
      peerId,
      logger,
      events,
      transportManager,
      ...(metrics === undefined ? {} : { metrics }),
      upgrader: preparedUpgrader(upgrader, { inbound: requireConnected }),
      registrar: {
        handle: async (_: string, handler: Answer) => void (answer = handler),
        unhandle: async () => {},
      } as Partial<Registrar> as Registrar,
      connectionManager: { getConnections } as Partial<ConnectionManager> as ConnectionManager,
    }) as Transport & { start(): Promise<void> }
    await transport.start()
    return { transport, answer }
  }
}

function addressOf(peer: string): Multiaddr {
  return multiaddr(`/webrtc/p2p/${peer}`)
}

/** Throws for an address that does not end in a peer. */
function peerOf(address: Multiaddr): string {
  const peer = address.getComponents().findLast(({ name }) => name === 'p2p')?.value
  if (peer === undefined) throw new Error(`${address.toString()} names no peer`)
  return peer
}

function serverOf({ address, port }: Endpoint): { urls: string[] } {
  return { urls: [`stun:${address.includes(':') ? `[${address}]` : address}:${port}`] }
}

/** The library takes the end of the signals for success. */
function requireConnected(connection: MultiaddrConnection): void {
  const { peerConnection } = connection as MultiaddrConnection & { peerConnection?: { connectionState?: string } }
  if (peerConnection?.connectionState !== 'connected') throw new Error('the signals ended before a way was found')
}
