/** Calls whose times are kept: enough for a p95, few enough to sort at every report. */
const WINDOW = 512

/** Quantiles of the last calls' time at this host, queue and compute together, in microseconds. */
export class ServiceTimes {
  readonly #times = new Float64Array(WINDOW)
  #count = 0

  add(microseconds: number): void {
    this.#times[this.#count++ % WINDOW] = microseconds
  }

  /** null before the first call. */
  quantiles(): { p50Us: number; p95Us: number } | null {
    const held = Math.min(this.#count, WINDOW)
    if (held === 0) return null
    const sorted = this.#times.slice(0, held).sort()
    const at = (share: number): number => Math.round(sorted[Math.min(held - 1, Math.floor(share * held))]!)
    return { p50Us: at(0.5), p95Us: at(0.95) }
  }
}
