import { setTimeout as delay } from 'node:timers/promises'
import type { Libp2p, PeerId } from '@libp2p/interface'

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
/** Peers remembered as gone; their ledger records run out within half a minute. */
const MAX_GONE = 1024

/**
 * Which peers of the ledger's view are gone before their records run out: their connection ended, and they can't be dialled again. A host
 * that was killed is known so within a second, not half a minute. Only this node's own evidence counts, and only until the peer is heard of
 * again.
 */
export class Liveness {
  readonly #components: LivenessComponents
  readonly #goneAt = new Map<string, number>()
  readonly #checking = new Set<string>()
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

  readonly #onConnect = (event: CustomEvent<PeerId>): void => {
    this.#goneAt.delete(event.detail.toString())
  }

  readonly #onDisconnect = (event: CustomEvent<PeerId>): void => {
    const peer = event.detail.toString()
    if (this.#checking.has(peer) || this.#components.heardAt(peer) === null) return
    this.#checking.add(peer)
    this.#check(event.detail)
      .catch(() => {})
      .finally(() => this.#checking.delete(peer))
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
