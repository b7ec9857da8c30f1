import { setTimeout as delay } from 'node:timers/promises'

/**
 * What a node sends or fetches of blobs while it serves or drives calls, each way: a fifteenth of a gigabit link, and some percent of a
 * core on either side. With twice as much one call in twenty waited three times as long (scripts/bench/transfer.ts). On slower links the
 * delay window holds back earlier.
 */
export const BUSY_BYTES_PER_SECOND = 8 * 1024 * 1024

export interface TransferPaceInit {
  /** Whether calls are being served or driven just now. */
  readonly isBusy: () => boolean
  readonly bytesPerSecond?: number
  /** Monotonic milliseconds. */
  readonly now?: () => number
}

/** Keeps blobs below calls in priority: spreads their bytes out while calls are under way, and lets them pass when there are none. */
export class TransferPace {
  readonly #isBusy: () => boolean
  readonly #bytesPerMs: number
  readonly #now: () => number
  #freeAt = 0

  constructor(init: TransferPaceInit) {
    this.#isBusy = init.isBusy
    this.#bytesPerMs = (init.bytesPerSecond ?? BUSY_BYTES_PER_SECOND) / 1000
    this.#now = init.now ?? (() => performance.now())
  }

  /** Milliseconds to wait before so many bytes may pass; counts them as passed then. */
  claim(bytes: number): number {
    const now = this.#now()
    if (!this.#isBusy()) {
      this.#freeAt = now
      return 0
    }
    const waitMs = Math.max(0, this.#freeAt - now)
    this.#freeAt = now + waitMs + bytes / this.#bytesPerMs
    return waitMs
  }

  /** Resolves when so many bytes may pass. */
  async turn(bytes: number): Promise<void> {
    const waitMs = this.claim(bytes)
    // Timers are no finer; what is skipped here is waited for by those that follow.
    if (waitMs >= 1) await delay(waitMs, undefined, { ref: false })
  }
}
