/** Delay beyond the quickest answer that a transfer may cause, as LEDBAT's target (RFC 6817 allows up to 100 ms). */
export const TARGET_DELAY_MS = 50
const FIRST_WINDOW = 4
const MAX_WINDOW = 32
/** On too long a delay. */
const SHRINK = 0.7
/** The quickest answer is forgotten slowly, as routes change. */
const BASE_GROWTH = 1.002

/**
 * How many ranges to have under way to one peer: grows while answers come nearly as fast as the quickest did, shrinks when queues build
 * up, so that a transfer takes what other traffic leaves of a link.
 */
export class DelayWindow {
  #size = FIRST_WINDOW
  #baseMs = Infinity
  #isProbing = true
  /** Answers until the window may shrink again: those under way at the last time tell nothing new. */
  #deaf = 0

  get size(): number {
    return Math.floor(this.#size)
  }

  /** An answer came so long after its request was sent. */
  answered(ms: number): void {
    this.#baseMs = Math.min(ms, this.#baseMs * BASE_GROWTH)
    this.#deaf = Math.max(0, this.#deaf - 1)
    if (ms - this.#baseMs <= TARGET_DELAY_MS) {
      this.#size = Math.min(MAX_WINDOW, this.#size + (this.#isProbing ? 1 : 1 / this.#size))
      return
    }
    this.#isProbing = false
    if (this.#deaf > 0) return
    this.#deaf = this.size
    this.#size = Math.max(1, this.#size * SHRINK)
  }
}
