import type { Connection, Libp2pEvents, PeerId, Stream, TypedEventTarget } from '@libp2p/interface'
import type { Registrar } from '@libp2p/interface-internal'
import { judgeMembership, MEMBERSHIP_LIMITS, MEMBERSHIP_PROTOCOL, proveMembership } from '../../protocols/membership/index.ts'
import { isMeshError, PeerRefusedError } from '../../protocols/wire/errors.ts'
import type { Gatekeeper } from '../swarm/gatekeeper.ts'
import { dhtProtocol } from '../swarm/swarm.ts'

export interface MembershipComponents {
  readonly registrar: Registrar
  readonly events: TypedEventTarget<Libp2pEvents>
  readonly peerId: PeerId
}

export interface MembershipInit {
  readonly gate: Gatekeeper
  readonly onRefused?: (peer: string, reason: string) => void
}

type Middleware = (stream: Stream, connection: Connection, next: (stream: Stream, connection: Connection) => void) => Promise<void>

/** What any libp2p node may ask of any other before it has proved anything: who it is, and whether it lives. */
const ALWAYS_OPEN = [MEMBERSHIP_PROTOCOL, '/ipfs/id/1.0.0', '/ipfs/id/push/1.0.0', '/ipfs/ping/1.0.0']
/** What an open swarm also serves to, and uses of, libp2p nodes that are no Skein nodes: relays, reachability checks, and its DHT. */
const OPEN_SWARM_SERVES = [
  '/libp2p/circuit/relay/0.2.0/hop',
  '/libp2p/circuit/relay/0.2.0/stop',
  '/libp2p/autonat/2/dial-request',
  '/libp2p/autonat/2/dial-back',
]
/** Peers whose clocks are remembered. */
const MAX_CLOCKS = 64
/** From a refusal to the end of the connection. */
const LAST_WORDS_MS = 1_000
/** Peers of which it is remembered why they were refused. */
const MAX_REFUSALS = 256

interface Proof {
  readonly done: Promise<void>
  readonly resolve: () => void
  readonly reject: (error: Error) => void
  timer: NodeJS.Timeout
  isProved: boolean
}

/**
 * Lets no stream of a Skein protocol, of a private swarm's DHT or of gossip through in either direction before the peer has proved on this very
 * connection that it belongs to the swarm, whatever the transport. Connections to a private swarm that do not get so far are ended.
 */
export class Membership {
  readonly #components: MembershipComponents
  readonly #init: MembershipInit
  readonly #open: ReadonlySet<string>
  readonly #proofs = new Map<string, Proof>()
  readonly #refusals = new Map<string, string>()
  /** Peer → how far its clock was ahead of this node's. */
  readonly #clocks = new Map<string, number>()
  #stopping = new AbortController()

  constructor(components: MembershipComponents, init: MembershipInit) {
    this.#components = components
    this.#init = init
    const { swarm } = init.gate
    // Who speaks the DHT's protocol knows the swarm's name, and an open swarm's proof shows no more.
    this.#open = new Set([...ALWAYS_OPEN, ...(swarm.founder === null ? [...OPEN_SWARM_SERVES, dhtProtocol(swarm)] : [])])
    // libp2p 3.3.11 appends each stream's handler to the very list it was given, so `registrar.use` would call handlers of other streams.
    components.registrar.getMiddleware = (protocol) => (this.#open.has(protocol) ? [] : [this.#guard])
  }

  /** Called by libp2p before any service can make or take a connection. */
  async beforeStart(): Promise<void> {
    const { registrar, events } = this.#components
    this.#stopping = new AbortController()
    await registrar.handle(MEMBERSHIP_PROTOCOL, (stream, connection) => this.#judge(stream, connection), {
      maxInboundStreams: MEMBERSHIP_LIMITS.maxStreams,
      runOnLimitedConnection: true,
    })
    events.addEventListener('connection:open', this.#onOpen)
    events.addEventListener('connection:close', this.#onClose)
  }

  start(): void {}

  async stop(): Promise<void> {
    const { registrar, events } = this.#components
    this.#stopping.abort(new Error('the node is stopping'))
    events.removeEventListener('connection:open', this.#onOpen)
    events.removeEventListener('connection:close', this.#onClose)
    for (const id of this.#proofs.keys()) this.#forget(id, new Error('the node is stopping'))
    await registrar.unhandle(MEMBERSHIP_PROTOCOL)
  }

  /** Why peers were refused lately, the newest last. */
  refusals(): ReadonlyMap<string, string> {
    return this.#refusals
  }

  /** How far the clocks of peers dialled lately are ahead of this node's, the middle one, in milliseconds; null before the first. */
  clockAheadMs(): number | null {
    const sorted = [...this.#clocks.values()].sort((a, b) => a - b)
    return sorted[Math.floor(sorted.length / 2)] ?? null
  }

  /** Resolves once the peer has proved that it belongs to the swarm, on this connection; rejects when it can't. */
  async proved(connection: Connection): Promise<void> {
    await this.#proofOf(connection).done
  }

  /** Whether that has happened. */
  hasProved(connection: Connection): boolean {
    return this.#proofs.get(connection.id)?.isProved ?? false
  }

  readonly #guard: Middleware = async (stream, connection, next) => {
    try {
      await this.proved(connection)
    } catch (error) {
      stream.abort(error as Error)
      throw error
    }
    next(stream, connection)
  }

  readonly #onOpen = ({ detail }: CustomEvent<Connection>): void => void this.#proofOf(detail)

  readonly #onClose = ({ detail }: CustomEvent<Connection>): void => this.#forget(detail.id, new Error('the connection closed'))

  #proofOf(connection: Connection): Proof {
    const { id } = connection
    const existing = this.#proofs.get(id)
    if (existing !== undefined) return existing
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    // Nobody may be waiting for it.
    promise.catch(() => {})
    const late = (): void => this.#refuse(connection, new PeerRefusedError('notAdmitted', 'the peer did not prove its membership in time'))
    const proof = { done: promise, resolve, reject, timer: setTimeout(late, MEMBERSHIP_LIMITS.timeoutMs), isProved: false }
    if (connection.status !== 'open' || this.#stopping.signal.aborted) {
      clearTimeout(proof.timer)
      reject(new Error('the connection is closed'))
      return proof
    }
    this.#proofs.set(id, proof)
    if (connection.direction === 'outbound') void this.#prove(connection, proof)
    return proof
  }

  async #prove(connection: Connection, proof: Proof): Promise<void> {
    const { gate } = this.#init
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(MEMBERSHIP_LIMITS.timeoutMs)])
    try {
      const peer = keyOf(connection.remotePeer)
      const stream = await connection.newStream(MEMBERSHIP_PROTOCOL, { signal, runOnLimitedConnection: true })
      try {
        const { granted, clockAheadMs } = await proveMembership(stream, {
          swarm: gate.swarm.tag,
          key: gate.swarm.proofKey,
          self: keyOf(this.#components.peerId),
          peer,
          isAdmitted: (credential) => gate.isAdmitted(credential, peer),
          papers: (transcript) => gate.papers(transcript),
          signal,
        })
        this.#clocks.set(connection.remotePeer.toString(), clockAheadMs)
        if (this.#clocks.size > MAX_CLOCKS) this.#clocks.delete(this.#clocks.keys().next().value!)
        await gate.accept(granted)
      } catch (error) {
        stream.abort(error as Error)
        throw error
      }
      this.#admit(connection, proof)
    } catch (error) {
      this.#refuse(connection, error as Error)
    }
  }

  async #judge(stream: Stream, connection: Connection): Promise<void> {
    const { gate } = this.#init
    const proof = this.#proofOf(connection)
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(MEMBERSHIP_LIMITS.timeoutMs)])
    try {
      const verdict = await judgeMembership(stream, {
        swarm: gate.swarm.tag,
        key: gate.swarm.proofKey,
        self: keyOf(this.#components.peerId),
        peer: keyOf(connection.remotePeer),
        credential: gate.credential(),
        judge: (papers, transcript) => gate.judge(papers, transcript),
        signal,
      })
      if (verdict === 'member') this.#admit(connection, proof)
      else this.#refuse(connection, new PeerRefusedError(verdict, `the peer was refused: ${verdict}`))
    } catch (error) {
      stream.abort(error as Error)
      this.#refuse(connection, error as Error)
    }
  }

  #admit(connection: Connection, proof: Proof): void {
    clearTimeout(proof.timer)
    this.#refusals.delete(connection.remotePeer.toString())
    proof.isProved = true
    proof.resolve()
  }

  #refuse(connection: Connection, error: Error): void {
    const proof = this.#proofs.get(connection.id)
    if (proof === undefined) return
    clearTimeout(proof.timer)
    proof.reject(error)
    const peer = connection.remotePeer.toString()
    // A peer that knows no such protocol is a libp2p node of another kind; one that was closed says nothing.
    if (isMeshError(error, 'PeerRefusedError')) {
      this.#refusals.delete(peer)
      if (this.#refusals.size >= MAX_REFUSALS) this.#refusals.delete(this.#refusals.keys().next().value!)
      this.#refusals.set(peer, error.message)
      this.#init.onRefused?.(peer, error.message)
    }
    // An open swarm keeps libp2p nodes of other kinds for what it serves them; a conversation that broke off is begun anew by a new dial.
    const isOtherKind =
      connection.direction === 'inbound' || error.name === 'UnsupportedProtocolError' || isMeshError(error, 'PeerRefusedError')
    if (this.#init.gate.swarm.founder === null && isOtherKind) return
    // The peer still has to read the verdict.
    const timer = setTimeout(() => connection.abort(error), LAST_WORDS_MS)
    connection.addEventListener('close', () => clearTimeout(timer), { once: true })
  }

  #forget(id: string, reason: Error): void {
    const proof = this.#proofs.get(id)
    if (proof === undefined) return
    this.#proofs.delete(id)
    clearTimeout(proof.timer)
    proof.reject(reason)
  }
}

/** The raw Ed25519 key of a peer. Throws `PeerRefusedError` for a peer with a key of another kind: it is no Skein node. */
function keyOf(peer: PeerId): Uint8Array {
  if (peer.type !== 'Ed25519') throw new PeerRefusedError('notAdmitted', 'the peer has no Ed25519 key')
  return peer.publicKey.raw
}

/** {@link Membership} as a service of a libp2p node. */
export function membership(init: MembershipInit): (components: MembershipComponents) => Membership {
  return (components) => new Membership(components, init)
}
