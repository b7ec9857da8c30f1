/** The median of the last few numbers: one stray measurement does not move it, a lasting change does within half of them. */
export class RecentMedian {
  readonly #ring: number[] = []
  readonly #size: number
  #next = 0
  #median: number | null = null

  /** `size`: how many numbers count; odd, so that the median is one of them. */
  constructor(size: number) {
    this.#size = size
  }

  /** null before the first number. */
  get value(): number | null {
    return this.#median
  }

  add(value: number): void {
    this.#ring[this.#next] = value
    this.#next = (this.#next + 1) % this.#size
    const sorted = [...this.#ring].sort((a, b) => a - b)
    this.#median = sorted[sorted.length >> 1]!
  }

  clear(): void {
    this.#ring.length = 0
    this.#next = 0
    this.#median = null
  }
}
