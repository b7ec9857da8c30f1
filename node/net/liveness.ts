import { setTimeout as delay } from 'node:timers/promises'
import type { Libp2p, PeerId } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'

type LivenessMesh = Pick<Libp2p, 'dial' | 'getConnections' | 'addEventListener' | 'removeEventListener'>

export interface LivenessComponents {
  readonly mesh: LivenessMesh
  /** When the peer's newest ledger record arrived, milliseconds since 1970; null when it is not in the view. */
  readonly heardAt: (peer: string) => number | null
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

/** A peer whose connection ended is dialled again, this often, before it counts as gone. */
const ATTEMPTS = 2
const DIAL_TIMEOUT_MS = 3_000
const BETWEEN_MS = 500
/** Peers remembered as gone; in large swarms their ledger records live for up to an hour. */
const MAX_GONE = 1024
/** A peer that was dialled because somebody relies on it is not dialled again for so long; once connected, the end of that is noticed. */
const VERIFIED_MS = 15_000
/** Peers dialled for that at the same time; those beyond are left to the next time. */
const MAX_VERIFYING = 16

/**
 * Which peers of the ledger's view are gone before their records run out: their connection ended, or was never there, and they can't be
 * dialled. A host that was killed is known so within a second, not half a minute, or, in a swarm of a thousand, an hour. Only this node's own
 * evidence counts, and only until the peer is heard of again.
 */
export class Liveness {
  readonly #components: LivenessComponents
  readonly #goneAt = new Map<string, number>()
  readonly #checking = new Map<string, Promise<void>>()
  /** Peer → when it was dialled by {@link verify}, in `performance.now()` milliseconds. */
  readonly #verifiedAt = new Map<string, number>()
  #stopping = new AbortController()

  constructor(components: LivenessComponents) {
    this.#components = components
  }

  start(): void {
    this.#stopping = new AbortController()
    this.#components.mesh.addEventListener('peer:disconnect', this.#onDisconnect)
    this.#components.mesh.addEventListener('peer:connect', this.#onConnect)
  }

  stop(): void {
    this.#components.mesh.removeEventListener('peer:disconnect', this.#onDisconnect)
    this.#components.mesh.removeEventListener('peer:connect', this.#onConnect)
    this.#stopping.abort(new Error('the node is stopping'))
  }

  isGone(peer: string): boolean {
    const goneAt = this.#goneAt.get(peer)
    if (goneAt === undefined) return false
    const heardAt = this.#components.heardAt(peer)
    if (heardAt !== null && heardAt <= goneAt) return true
    this.#goneAt.delete(peer)
    return false
  }

  /** Dials those of the peers that are not connected, so that none is relied on that died unseen; resolves when their state is known. */
  async verify(peers: Iterable<string>): Promise<void> {
    const { mesh } = this.#components
    const now = performance.now()
    for (const [peer, at] of this.#verifiedAt) if (now - at > VERIFIED_MS) this.#verifiedAt.delete(peer)
    const checks: Promise<void>[] = []
    for (const peer of new Set(peers)) {
      if (this.#verifiedAt.has(peer) || this.isGone(peer) || this.#checking.size >= MAX_VERIFYING) continue
      const id = peerIdFromString(peer)
      if (mesh.getConnections(id).length > 0) continue
      this.#verifiedAt.set(peer, now)
      checks.push(this.#checkOnce(id))
    }
    await Promise.all(checks)
  }

  readonly #onConnect = (event: CustomEvent<PeerId>): void => {
    this.#goneAt.delete(event.detail.toString())
  }

  readonly #onDisconnect = (event: CustomEvent<PeerId>): void => {
    void this.#checkOnce(event.detail)
  }

  /** Never rejects. */
  #checkOnce(id: PeerId): Promise<void> {
    const peer = id.toString()
    if (this.#components.heardAt(peer) === null) return Promise.resolve()
    let checking = this.#checking.get(peer)
    if (checking === undefined) {
      checking = this.#check(id)
        .catch(() => {})
        .finally(() => this.#checking.delete(peer))
      this.#checking.set(peer, checking)
    }
    return checking
  }

  async #check(id: PeerId): Promise<void> {
    const { mesh, log } = this.#components
    const peer = id.toString()
    const { signal } = this.#stopping
    for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
      if (attempt > 0) await delay(BETWEEN_MS, undefined, { signal })
      if (mesh.getConnections(id).length > 0) return
      const isThere = await mesh.dial(id, { signal: AbortSignal.any([signal, AbortSignal.timeout(DIAL_TIMEOUT_MS)]) }).then(
        () => true,
        () => false,
      )
      if (isThere || signal.aborted) return
    }
    if (this.#goneAt.size >= MAX_GONE) this.#goneAt.delete(this.#goneAt.keys().next().value!)
    this.#goneAt.set(peer, Date.now())
    log('peer.gone', { peer })
  }
}
