/**
 * Latencies as DDSketch counts them (Masson, Rim, Lee, "DDSketch: a fast and fully-mergeable quantile sketch with relative-error
 * guarantees", 2019): bin i holds what lies in (γ^(i-1), γ^i] microseconds. Bins of two sketches add up to the sketch of both.
 */

/** Quantiles are within this share of the true ones. */
export const SKETCH_ACCURACY = 0.05
const GAMMA = (1 + SKETCH_ACCURACY) / (1 - SKETCH_ACCURACY)
const LOG_GAMMA = Math.log(GAMMA)

/** Bins from 1 µs on; the last one ends at 450 s, and holds what took longer, too. */
export const SKETCH_BINS = 200

/** The bins from the first to the last that is not empty. */
export interface Sketch {
  /** Number of the first bin; 0 when all are empty. */
  readonly first: number
  readonly counts: Uint32Array
}

export const EMPTY_SKETCH: Sketch = Object.freeze({ first: 0, counts: new Uint32Array() })

/** Calls in a sketch. */
export function sketchCount({ counts }: Sketch): number {
  return counts.reduce((sum, count) => sum + count, 0)
}

/** The latency in microseconds below which the given share of calls lies; null when there is none. */
export function sketchQuantile({ first, counts }: Sketch, share: number): number | null {
  const total = sketchCount({ first, counts })
  if (total === 0) return null
  const rank = Math.min(total - 1, Math.floor(share * total))
  let seen = 0
  for (let i = 0; i < counts.length; i++) {
    seen += counts[i]!
    if (seen > rank) return (2 * GAMMA ** (first + i)) / (GAMMA + 1)
  }
  return null
}

/** The sketch of all calls of all sketches. */
export function mergeSketches(sketches: Iterable<Sketch>): Sketch {
  const merged = new LatencySketch(Infinity)
  for (const sketch of sketches) merged.merge(sketch)
  return merged.value()
}

/** A sketch that grows; beyond `window` calls all bins are halved, so that old ones fade. */
export class LatencySketch {
  readonly #bins = new Float64Array(SKETCH_BINS)
  readonly #window: number
  #count = 0

  constructor(window: number) {
    this.#window = window
  }

  /** Calls that count, those faded left out. */
  get count(): number {
    return this.#count
  }

  add(microseconds: number): void {
    const bin = microseconds <= 1 ? 0 : Math.ceil(Math.log(microseconds) / LOG_GAMMA)
    this.#bins[Math.min(SKETCH_BINS - 1, bin)]!++
    this.#count++
    this.#fade()
  }

  merge({ first, counts }: Sketch): void {
    for (let i = 0; i < counts.length; i++) {
      this.#bins[first + i]! += counts[i]!
      this.#count += counts[i]!
    }
    this.#fade()
  }

  quantile(share: number): number | null {
    return sketchQuantile(this.value(), share)
  }

  value(): Sketch {
    const first = this.#bins.findIndex((count) => count >= 1)
    if (first < 0) return EMPTY_SKETCH
    const last = this.#bins.findLastIndex((count) => count >= 1)
    return { first, counts: Uint32Array.from(this.#bins.subarray(first, last + 1), (count) => Math.min(2 ** 32 - 1, count)) }
  }

  #fade(): void {
    if (this.#count <= this.#window) return
    this.#count = 0
    for (let i = 0; i < SKETCH_BINS; i++) {
      this.#bins[i]! /= 2
      this.#count += this.#bins[i]!
    }
  }
}
