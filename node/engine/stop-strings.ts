/**
 * Watches streamed text for stop strings. Text that may be the beginning of one is held back until it is decided;
 * the stop string itself is never given out.
 */
export class StopStrings {
  readonly #stops: readonly string[]
  #held = ''
  #stopped = false

  /** Empty strings are ignored. */
  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== '')
  }

  /** Whether a stop string has appeared; nothing is given out after it. */
  get stopped(): boolean {
    return this.#stopped
  }

  /** Adds text and returns what is certain not to belong to a stop string. The stop string that is complete first wins, so that it does not matter how the text was cut. */
  push(text: string): string {
    if (this.#stopped) return ''
    const all = this.#held + text
    let first = -1
    let firstEnd = Infinity
    for (const stop of this.#stops) {
      const at = all.indexOf(stop)
      const end = at + stop.length
      if (at >= 0 && (end < firstEnd || (end === firstEnd && at < first))) {
        first = at
        firstEnd = end
      }
    }
    if (first >= 0) {
      this.#stopped = true
      this.#held = ''
      return all.slice(0, first)
    }
    const keep = this.#possibleStart(all)
    this.#held = all.slice(all.length - keep)
    return all.slice(0, all.length - keep)
  }

  /** The text still held back, at the end of the answer. */
  flush(): string {
    const rest = this.#held
    this.#held = ''
    return rest
  }

  /** Length of the longest end of `text` that begins a stop string. */
  #possibleStart(text: string): number {
    let longest = 0
    for (const stop of this.#stops) {
      for (let length = Math.min(stop.length - 1, text.length); length > longest; length--) {
        if (text.endsWith(stop.slice(0, length))) {
          longest = length
          break
        }
      }
    }
    return longest
  }
}
