/** What a bench found: one quantity with its spread. */
export interface Figure {
  readonly what: string
  readonly unit: string
  /** How many samples the figure rests on. */
  readonly n: number
  readonly median: number
  /** null where the figure is one number, such as a ratio of medians. */
  readonly p95: number | null
  readonly min: number | null
  readonly max: number | null
  readonly bar: Bar | null
}

/** What the median must reach; stated in the issue or the design. */
export interface Bar {
  readonly atLeast?: number
  readonly atMost?: number
}

/** The spread of samples. Throws when there are none. */
export function figure(what: string, unit: string, samples: readonly number[], bar: Bar | null = null): Figure {
  if (samples.length === 0) throw new Error(`nothing was measured of: ${what}`)
  const sorted = samples.toSorted((a, b) => a - b)
  return {
    what,
    unit,
    n: sorted.length,
    median: quantile(sorted, 0.5),
    p95: quantile(sorted, 0.95),
    min: sorted[0]!,
    max: sorted.at(-1)!,
    bar,
  }
}

/** How much of `b` there is in `a`, both ways: of the medians, and pair by pair, in which the drift of the machine cancels. */
export function ratios(what: string, a: readonly number[], b: readonly number[], bar: Bar | null = null): Figure[] {
  const ofMedians = figure(what, '', a).median / figure(what, '', b).median
  return [
    { what: `${what}: of medians`, unit: '×', n: a.length, median: ofMedians, p95: null, min: null, max: null, bar },
    figure(
      `${what}: of pairs`,
      '×',
      a.map((value, i) => value / b[i]!),
      bar,
    ),
  ]
}

/** Whether the median reaches its bar; null without one. */
export function meetsBar({ median, bar }: Figure): boolean | null {
  if (bar === null) return null
  return median >= (bar.atLeast ?? -Infinity) && median <= (bar.atMost ?? Infinity)
}

/** Linear between the two nearest samples of a sorted list. */
function quantile(sorted: readonly number[], share: number): number {
  const at = share * (sorted.length - 1)
  const below = sorted[Math.floor(at)]!
  const above = sorted[Math.ceil(at)]!
  return below + (above - below) * (at - Math.floor(at))
}
