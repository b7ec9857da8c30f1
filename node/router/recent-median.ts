/** The median of the last few numbers: one stray measurement does not move it, a lasting change does within half of them. */
export class RecentMedian {
  readonly #ring: number[] = []
  /** The same numbers in order. */
  readonly #sorted: number[] = []
  readonly #size: number
  #next = 0

  /** `size`: how many numbers count; odd, so that the median is one of them. */
  constructor(size: number) {
    this.#size = size
  }

  /** null before the first number. */
  get value(): number | null {
    return this.#sorted[this.#sorted.length >> 1] ?? null
  }

  /** Not for NaN. */
  add(value: number): void {
    const sorted = this.#sorted
    if (this.#ring.length === this.#size) sorted.splice(sorted.indexOf(this.#ring[this.#next]!), 1)
    this.#ring[this.#next] = value
    this.#next = (this.#next + 1) % this.#size
    let place = sorted.length
    while (place > 0 && sorted[place - 1]! > value) place--
    sorted.splice(place, 0, value)
  }

  clear(): void {
    this.#ring.length = 0
    this.#sorted.length = 0
    this.#next = 0
  }
}
