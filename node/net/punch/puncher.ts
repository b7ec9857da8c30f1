import { randomBytes } from 'node:crypto'
import type { Connection, IdentifyResult, PeerId, Transport } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { tcp } from '@libp2p/tcp'
import {
  askReflectors,
  createPunchHandler,
  offerPunch,
  PUNCH_LIMITS as LIMITS,
  PUNCH_PROTOCOL,
  TOKEN_BYTES,
} from '../../../protocols/punch/index.ts'
import type { PunchSide } from '../../../protocols/punch/index.ts'
import { linkKind } from '../link-kind.ts'
import type { LinkKind } from '../link-kind.ts'
import type { Mesh } from '../mesh.ts'
import { missingLibrary } from '../webrtc/library.ts'
import { awaitConnection, newConnection } from './connection-wait.ts'
import { Face } from './face.ts'
import type { UdpPath } from './face.ts'
import { OwnReflectors } from './own-reflectors.ts'
import { describeSide } from './own-side.ts'
import type { OwnSide } from './own-side.ts'
import { QuicCarrier } from './quic-carrier.ts'
import { ReflectorDirectory } from './reflector-directory.ts'
import { PunchHistory } from './punch-history.ts'
import { punchTcp } from './tcp-punch.ts'
import type { TransportParts } from './transport-parts.ts'
import { punchUdp } from './udp-punch.ts'
import { UdpSocket } from './udp-socket.ts'
import { PUNCH_WAYS } from './ways.ts'
import type { PunchWay } from './ways.ts'

/** How long both sides try: three rounds of TCP's phases; random probes end after 4 s. */
const ATTEMPT_MS = 9_000
/** A peer that heard our probes at the very end may still be in its QUIC handshake. */
const LINGER_MS = 5_000
const QUIC_DIAL_MS = 5_000
/** ICE tries each pair of addresses some times; those of a relay far away take a while to be told. */
const WEBRTC_MS = 12_000

export interface PuncherInit {
  readonly mesh: Pick<Mesh, 'handle' | 'unhandle' | 'getConnections' | 'addEventListener' | 'removeEventListener'>
  readonly parts: TransportParts
  /** Port of the shared UDP sockets and of the TCP reflector, where free; 0 for any. */
  readonly port: number
  /** Default: all. */
  readonly ways?: readonly PunchWay[]
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

/** A direct link that a punch opened. */
export interface PunchedLink {
  readonly kind: LinkKind
  /** From the moment at which both sides began. */
  readonly ms: number
}

interface Attempt {
  readonly peer: PeerId
  readonly token: Uint8Array
  readonly mine: OwnSide
  readonly theirs: PunchSide
  readonly isInitiator: boolean
}

/** Opens direct links to peers behind routers, at this node's own wish or a peer's, and tells others how it sees them. */
export class Puncher {
  readonly #init: PuncherInit
  readonly #ways: ReadonlySet<PunchWay>
  readonly #carrier: QuicCarrier
  readonly #tcp: Transport
  /** How punches went. */
  readonly history = new PunchHistory()
  readonly #directory: ReflectorDirectory
  readonly #reflectors: OwnReflectors
  /** Peers with a punch under way, in either role. */
  readonly #running = new Map<string, number>()
  #stopping = new AbortController()
  #sockets: Promise<readonly UdpSocket[]> | null = null

  constructor(init: PuncherInit) {
    this.#init = init
    this.#ways = new Set(init.ways ?? PUNCH_WAYS)
    this.#carrier = new QuicCarrier(init.parts)
    this.#tcp = tcp()(init.parts)
    this.#directory = new ReflectorDirectory({
      ask: async (connection) => {
        const { signal } = this.#stopping
        return await askReflectors(await connection.newStream(PUNCH_PROTOCOL, { signal }), { signal })
      },
    })
    this.#reflectors = new OwnReflectors({ port: init.port, shared: () => this.#openSockets() })
  }

  async start(): Promise<void> {
    const { mesh, log } = this.#init
    const handler = createPunchHandler<OwnSide>({
      reflectors: () => this.#reflectors.open(),
      describe: async () => (this.#running.size >= LIMITS.maxAttempts ? 'busy' : await this.#describe()),
      begin: (peer, token, mine, theirs) => {
        const attempt = { peer: peerIdFromString(peer), token, mine, theirs, isInitiator: false }
        this.#attempt(attempt).catch((error: Error) => log('punch.failed', { peer, reason: error.message }))
      },
      onFailure: (peer, error) => log('punch.exchange.failed', { peer, reason: error.message }),
      signal: this.#stopping.signal,
    })
    mesh.addEventListener('peer:identify', this.#onIdentify)
    mesh.addEventListener('peer:disconnect', this.#onDisconnect)
    await mesh.handle(PUNCH_PROTOCOL, (stream, connection) => handler(stream, connection.remotePeer.toString()), {
      maxInboundStreams: LIMITS.maxInboundStreams,
      runOnLimitedConnection: true,
    })
    await this.#serveWebRtc()
  }

  /** Ends every attempt and closes every socket; connections that were opened end with it, for their packets go through them. */
  async stop(): Promise<void> {
    const { mesh, parts } = this.#init
    this.#stopping.abort(new Error('the node is stopping'))
    mesh.removeEventListener('peer:identify', this.#onIdentify)
    mesh.removeEventListener('peer:disconnect', this.#onDisconnect)
    await mesh.unhandle(PUNCH_PROTOCOL)
    await parts.webRtc.unserve()
    await this.#carrier.stop()
    await this.#reflectors.close()
    for (const socket of (await this.#sockets?.catch(() => [])) ?? []) socket.close()
  }

  isPunching(peer: string): boolean {
    return this.#running.has(peer)
  }

  /** Public peers that tell this node how they see it. */
  get reflectorHosts(): number {
    return this.#directory.size
  }

  /** How the routers before this node treat its packets, as public peers see it now. */
  async look(): Promise<PunchSide> {
    return (await this.#describe()).side
  }

  /**
   * Tries to open direct links to the peer at the other end of a relayed connection, in some ten seconds at most. Resolves with what was
   * opened, best last; empty when no way led through. Rejects when the peer refuses or the relayed connection ends.
   */
  async punch(relayed: Connection, signal: AbortSignal): Promise<readonly PunchedLink[]> {
    const ending = AbortSignal.any([signal, this.#stopping.signal])
    try {
      const mine = await this.#describe()
      const token = randomBytes(TOKEN_BYTES)
      const stream = await relayed.newStream(PUNCH_PROTOCOL, { signal: ending, runOnLimitedConnection: true })
      const { theirs } = await offerPunch(stream, { token, side: mine.side }, { signal: ending })
      return await this.#attempt({ peer: relayed.remotePeer, token, mine, theirs, isInitiator: true })
    } catch (error) {
      this.history.failed(relayed.remotePeer.toString(), (error as Error).message)
      throw error
    }
  }

  readonly #onIdentify = (event: CustomEvent<IdentifyResult>): void => {
    const { connection, protocols, peerId } = event.detail
    if (!protocols.includes(PUNCH_PROTOCOL)) return
    this.#directory
      .learn(connection)
      .catch((error: Error) => this.#init.log('punch.reflectors.unknown', { peer: peerId.toString(), reason: error.message }))
  }

  readonly #onDisconnect = (event: CustomEvent<PeerId>): void => this.#directory.forget(event.detail.toString())

  async #describe(): Promise<OwnSide> {
    const sockets = await this.#openSockets()
    const withUdp = this.#ways.has('udp') && sockets.length > 0 && (await this.#hasQuic())
    return await describeSide(this.#directory, sockets, { withUdp, withTcp: this.#ways.has('tcp') })
  }

  async #hasQuic(): Promise<boolean> {
    try {
      await this.#carrier.port()
      return true
    } catch (error) {
      this.#init.log('punch.quic.missing', { reason: (error as Error).message })
      return false
    }
  }

  async #serveWebRtc(): Promise<void> {
    const { parts, log } = this.#init
    if (!this.#ways.has('webrtc')) return
    const missing = missingLibrary()
    if (missing !== null) log('punch.webrtc.missing', { reason: missing })
    else await parts.webRtc.serve(() => this.#directory.pick('udp'))
  }

  async #attempt(attempt: Attempt): Promise<readonly PunchedLink[]> {
    const peer = attempt.peer.toString()
    const startedAt = performance.now()
    const opened: PunchedLink[] = []
    this.history.began(peer, attempt.mine.side, attempt.theirs)
    const note = (connection: Connection): void => {
      this.history.opened(peer, linkKind(connection))
      const link = { kind: linkKind(connection), ms: Math.round(performance.now() - startedAt) }
      opened.push(link)
      this.#init.log('punch.opened', { peer, ...link })
    }
    const timeout = new AbortController()
    const timer = setTimeout(() => timeout.abort(), ATTEMPT_MS)
    const signal = AbortSignal.any([timeout.signal, this.#stopping.signal])
    this.#running.set(peer, (this.#running.get(peer) ?? 0) + 1)
    try {
      await Promise.all([this.#byUdp(attempt, signal, note), this.#byTcp(attempt, signal, note)])
      if (opened.length === 0) await this.#byWebRtc(attempt, note)
    } finally {
      clearTimeout(timer)
      timeout.abort()
      const others = this.#running.get(peer)! - 1
      if (others > 0) this.#running.set(peer, others)
      else this.#running.delete(peer)
    }
    return opened
  }

  async #byUdp(attempt: Attempt, signal: AbortSignal, note: (connection: Connection) => void): Promise<void> {
    const { peer, token, mine, theirs, isInitiator } = attempt
    if (mine.side.udp.mapping === 'none' || theirs.udp.mapping === 'none') return
    // One that its other end has left may still be there; it must not pass for the one that comes.
    const before = new Set(this.#init.mesh.getConnections(peer))
    const sockets = await this.#openSockets()
    const ended = new AbortController()
    const punching = AbortSignal.any([signal, ended.signal])
    const onHeard = (path: UdpPath): void => {
      this.#admit(path, peer, signal).catch((error: Error) => this.#init.log('punch.face.failed', { reason: error.message }))
    }
    const init = { sockets, token, mine: mine.side.udp, theirs: theirs.udp, signal: punching }
    const path = await punchUdp(isInitiator ? init : { ...init, onHeard })
    if (path === null) return
    if (!isInitiator) {
      // The initiator may still call: it is echoed until the attempt ends.
      const connection = await awaitConnection(this.#init.mesh, { peer, kind: 'quic', before }, signal)
      if (connection !== undefined) note(connection)
    } else {
      const connection = await this.#dialQuic(path, peer, signal)
      if (connection !== null) note(connection)
    }
    ended.abort()
  }

  /** A busy peer may miss the first handshake: it is tried anew until the attempt ends. */
  async #dialQuic(path: UdpPath, peer: PeerId, signal: AbortSignal): Promise<Connection | null> {
    do {
      try {
        return await this.#carrier.dial(await Face.open(path, null), peer, AbortSignal.timeout(QUIC_DIAL_MS))
      } catch (error) {
        this.#init.log('punch.quic.failed', { peer: peer.toString(), reason: (error as Error).message })
      }
    } while (!signal.aborted && !path.socket.isClosed)
    return null
  }

  /** The passive side of a path: QUIC packets that come over it go to the listener. */
  async #admit(path: UdpPath, peer: PeerId, signal: AbortSignal): Promise<void> {
    const face = await Face.open(path, await this.#carrier.port())
    this.#carrier.expect(face, peer.toString())
    const forget = (): void => {
      setTimeout(() => this.#carrier.forget(face), LINGER_MS).unref()
    }
    if (signal.aborted) forget()
    else signal.addEventListener('abort', forget, { once: true })
  }

  async #byTcp(attempt: Attempt, signal: AbortSignal, note: (connection: Connection) => void): Promise<void> {
    const { peer, mine, theirs, isInitiator } = attempt
    if (mine.side.tcp.mapping === 'none' || theirs.tcp.mapping === 'none') return
    const { upgrader } = this.#init.parts
    const before = new Set(this.#init.mesh.getConnections(peer))
    const inbound = (): Connection | undefined => newConnection(this.#init.mesh, { peer, kind: 'tcp', before })
    const init = { transport: this.#tcp, upgrader, peer, localPort: mine.tcpPort, theirs: theirs.tcp, isInitiator, inbound, signal }
    const connection = await punchTcp(init)
    if (connection !== null) note(connection)
  }

  /** The second way, for what the first can't pass and machines without QUIC: heavier, and ICE does not guess ports. */
  async #byWebRtc({ peer, mine, theirs, isInitiator }: Attempt, note: (connection: Connection) => void): Promise<void> {
    const { parts, log } = this.#init
    const isHopeless = mine.side.udp.mapping === 'dependent' && theirs.udp.mapping === 'dependent'
    if (!isInitiator || isHopeless || !parts.webRtc.isServing) return
    try {
      note(await parts.webRtc.open(peer, AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(WEBRTC_MS)])))
    } catch (error) {
      log('punch.webrtc.failed', { peer: peer.toString(), reason: (error as Error).message })
    }
  }

  /** The sockets that all punches share, one per family that this machine has. */
  #openSockets(): Promise<readonly UdpSocket[]> {
    this.#sockets ??= Promise.allSettled([UdpSocket.open(4, this.#init.port), UdpSocket.open(6, this.#init.port)]).then((results) =>
      results.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : [])),
    )
    return this.#sockets
  }
}
