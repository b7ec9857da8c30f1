import { transportSymbol } from '@libp2p/interface'
import type { Connection, DialTransportOptions, Listener, PrivateKey, Transport } from '@libp2p/interface'
import type { WebRTCTransportComponents } from '@libp2p/webrtc'
import { multiaddr } from '@multiformats/multiaddr'
import type { Multiaddr } from '@multiformats/multiaddr'
import { QUIC_V1, WebSockets, WebSocketsSecure } from '@multiformats/multiaddr-matcher'
import { ConfigError } from '../errors.ts'
import { loadQuic } from './quic.ts'
import { WebRtcTransport } from './webrtc/transport.ts'

/** What transports are made of; libp2p gives it. */
export interface TransportComponents extends WebRTCTransportComponents {
  readonly privateKey: PrivateKey
}

type CreateTransport = (components: TransportComponents) => Transport

interface Kind {
  readonly name: string
  readonly matches: (address: Multiaddr) => boolean
  readonly load: () => Promise<CreateTransport>
}

/** All take a while to load, and most nodes get by with TCP. */
const KINDS: readonly Kind[] = [
  {
    name: 'quic',
    matches: (address) => QUIC_V1.exactMatch(address),
    load: loadQuic,
  },
  {
    name: 'websocket',
    matches: (address) => WebSockets.exactMatch(address) || WebSocketsSecure.exactMatch(address),
    load: async () => (await import('@libp2p/websockets')).webSockets(),
  },
]

/**
 * QUIC and WebSocket: loaded now where `listen` has an address of theirs, else when a peer is dialled that has. WebRTC: loaded when used.
 * Throws `ConfigError` naming the address whose transport does not run on this machine.
 */
export async function moreTransports(listen: readonly string[]): Promise<CreateTransport[]> {
  const addresses = listen.map((address) => multiaddr(address))
  const kinds = await Promise.all(
    KINDS.map(async (kind): Promise<CreateTransport> => {
      const wanted = addresses.find((address) => kind.matches(address))
      if (wanted === undefined) return (components) => new LateTransport(kind, components)
      return await kind.load().catch((error: Error) => {
        const [reason] = error.message.split('\n')
        throw new ConfigError(
          `--listen ${wanted.toString()}: ${kind.name} does not run on this machine (${reason}): leave this address out`,
          {
            cause: error,
          },
        )
      })
    }),
  )
  return [...kinds, (components) => new WebRtcTransport(components)]
}

/** A transport that only dials, and is loaded for its first dial. */
class LateTransport implements Transport {
  readonly [transportSymbol] = true as const
  readonly #kind: Kind
  readonly #components: TransportComponents
  #loading: Promise<Transport> | null = null

  constructor(kind: Kind, components: TransportComponents) {
    this.#kind = kind
    this.#components = components
  }

  get [Symbol.toStringTag](): string {
    return this.#kind.name
  }

  async dial(address: Multiaddr, options: DialTransportOptions): Promise<Connection> {
    this.#loading ??= this.#kind.load().then((create) => create(this.#components))
    return await (await this.#loading).dial(address, options)
  }

  dialFilter(addresses: Multiaddr[]): Multiaddr[] {
    return addresses.filter((address) => this.#kind.matches(address))
  }

  listenFilter(): Multiaddr[] {
    return []
  }

  createListener(): Listener {
    throw new Error(`${this.#kind.name} was not loaded to listen`)
  }

  start(): void {}

  async stop(): Promise<void> {
    const transport = (await this.#loading?.catch(() => null)) as { stop?(): Promise<void> } | null | undefined
    await transport?.stop?.()
  }
}
