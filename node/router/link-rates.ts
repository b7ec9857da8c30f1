import { RecentMedian } from './recent-median.ts'

/** Transfers of which the median counts. */
const RECENT_TRANSFERS = 9
/** Below this the time of a transfer says more of the round trip and of the machine than of the link. */
export const BULK_BYTES = 64 * 1024
/** Timers and garbage collection make shorter times meaningless. */
const MIN_MS = 0.5
/** Peers remembered; beyond it the one known longest is forgotten. */
const MAX_PEERS = 1024

/** How many bytes a second links to peers carry, as seen in what is sent anyway: blobs, and calls with many rows. */
export class LinkRates {
  readonly #peers = new Map<string, RecentMedian>()

  /** So many bytes went to or came from the peer in so many milliseconds, what is not transfer taken off. Small ones are ignored. */
  transferred(peer: string, bytes: number, ms: number): void {
    if (bytes < BULK_BYTES || !(ms >= 0)) return
    let rates = this.#peers.get(peer)
    if (rates === undefined) {
      if (this.#peers.size >= MAX_PEERS) this.#peers.delete(this.#peers.keys().next().value!)
      this.#peers.set(peer, (rates = new RecentMedian(RECENT_TRANSFERS)))
    }
    rates.add((bytes / Math.max(MIN_MS, ms)) * 1000)
  }

  /** Null before the first transfer. */
  bytesPerSecond(peer: string): number | null {
    return this.#peers.get(peer)?.value ?? null
  }

  /** The peer is reached in another way. */
  forget(peer: string): void {
    this.#peers.delete(peer)
  }
}
