import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import type { Multiaddr } from '@multiformats/multiaddr'
import { repeat } from '../repeat.ts'
import type { Mesh } from './mesh.ts'
import { NO_HANDSHAKE } from './swarm-tcp.ts'

export interface RejoinerComponents {
  readonly mesh: Pick<Mesh, 'peerId' | 'dial' | 'getConnections' | 'peerStore'>
  readonly bootstrap: readonly string[]
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

/** An address at which nobody answered lately. */
export interface Unreachable {
  readonly address: string
  readonly reason: string
}

/** With fewer peers than this, those of former times and the bootstrap addresses are dialled again. */
const ENOUGH_PEERS = 3
const TICK_MS = 1_000
/** Between two rounds while peers are too few, doubled from the first to the second. */
const FIRST_ROUND_MS = 1_000
const MAX_ROUND_MS = 60_000
/** Longer than one address may take. */
const DIAL_TIMEOUT_MS = 15_000
/** Remembered peers dialled in one round, at the same time. */
const PEERS_PER_ROUND = 16
/** Where libp2p's dialler notes its last success with a peer, milliseconds since 1970 as text. */
const LAST_SUCCESS = 'last-dial-success'

/**
 * Connects to the swarm again and again while there are too few peers: through the bootstrap addresses, and through peers met in former
 * runs, which the data directory remembers. A swarm whose nodes have met needs no bootstrap node any more.
 */
export class Rejoiner {
  readonly #components: RejoinerComponents
  readonly #unreachable = new Map<string, string>()
  #stopping = new AbortController()
  #roundMs = FIRST_ROUND_MS
  #dueAt = 0
  #round = 0

  constructor(components: RejoinerComponents) {
    this.#components = components
  }

  start(): void {
    this.#stopping = new AbortController()
    const onError = (error: Error): void => this.#components.log('rejoin.failed', { reason: error.message })
    repeat(() => this.#tick(), { intervalMs: TICK_MS, signal: this.#stopping.signal, onError })
    this.#tick().catch(onError)
  }

  stop(): void {
    this.#stopping.abort(new Error('the node is stopping'))
  }

  /** Bootstrap addresses at which nobody answers. */
  unreachable(): Unreachable[] {
    return [...this.#unreachable].map(([address, reason]) => ({ address, reason }))
  }

  async #tick(): Promise<void> {
    const peers = new Set(this.#components.mesh.getConnections().map(({ remotePeer }) => remotePeer.toString()))
    if (peers.size >= ENOUGH_PEERS) {
      this.#roundMs = FIRST_ROUND_MS
      this.#dueAt = 0
      return
    }
    if (performance.now() < this.#dueAt) return
    this.#dueAt = performance.now() + this.#roundMs
    this.#roundMs = Math.min(MAX_ROUND_MS, this.#roundMs * 2)
    await Promise.all([this.#dialBootstrap(), this.#dialRemembered()])
  }

  async #dialBootstrap(): Promise<void> {
    const { mesh, bootstrap, log } = this.#components
    const byPeer = new Map<string, Multiaddr[]>()
    for (const address of bootstrap.map((text) => multiaddr(text))) {
      const peer = peerOf(address)
      if (peer !== null && peer !== mesh.peerId.toString()) byPeer.set(peer, [...(byPeer.get(peer) ?? []), address])
    }
    await Promise.all(
      [...byPeer].map(async ([peer, addresses]) => {
        const forget = (): void => addresses.forEach((address) => this.#unreachable.delete(address.toString()))
        if (mesh.getConnections(peerIdFromString(peer)).length > 0) return forget()
        try {
          await mesh.dial(addresses, { signal: this.#signal() })
          forget()
        } catch (error) {
          if (this.#stopping.signal.aborted) return
          const reason = describeFailure(error as Error)
          for (const address of addresses) {
            if (this.#unreachable.get(address.toString()) === reason) continue
            this.#unreachable.set(address.toString(), reason)
            log('bootstrap.unreachable', { address: address.toString(), reason, next: `in ${this.#roundMs / 1000} s` })
          }
        }
      }),
    )
  }

  async #dialRemembered(): Promise<void> {
    const { mesh, log } = this.#components
    const known = await mesh.peerStore.all({ filters: [(peer) => peer.addresses.length > 0 && !peer.id.equals(mesh.peerId)] })
    const lastMet = (peer: (typeof known)[number]): number => Number(Buffer.from(peer.metadata.get(LAST_SUCCESS) ?? []).toString()) || 0
    const absent = known.filter((peer) => mesh.getConnections(peer.id).length === 0).sort((a, b) => lastMet(b) - lastMet(a))
    // One round after the other goes through them all.
    const first = absent.length > PEERS_PER_ROUND ? (this.#round++ * PEERS_PER_ROUND) % absent.length : 0
    const chosen = absent.slice(first, first + PEERS_PER_ROUND)
    const results = await Promise.allSettled(chosen.map((peer) => mesh.dial(peer.id, { signal: this.#signal() })))
    const met = results.filter(({ status }) => status === 'fulfilled').length
    if (met > 0) log('rejoin.met', { peers: met, of: chosen.length })
  }

  #signal(): AbortSignal {
    return AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(DIAL_TIMEOUT_MS)])
  }
}

function peerOf(address: Multiaddr): string | null {
  return address.getComponents().findLast(({ name }) => name === 'p2p')?.value ?? null
}

/** The first cause that a person can act on: libp2p wraps them in each other. */
export function describeFailure(error: Error): string {
  if (error.message === NO_HANDSHAKE) return NO_HANDSHAKE
  const inner = error instanceof AggregateError ? (error.errors[0] as Error | undefined) : (error.cause as Error | undefined)
  if (inner instanceof Error) return describeFailure(inner)
  return /abort|timed? ?out/i.test(`${error.name} ${error.message}`) ? 'no answer in time' : error.message
}
