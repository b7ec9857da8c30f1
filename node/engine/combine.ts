/** What {@link weightedSum} adds up: pick i is row `pickRow[i]`, weighted by `pickWeight[i]`, with the expert's output in `outputs` row i - `first`. */
export interface WeightedPicks {
  /** Rows of `into`. */
  readonly rows: number
  /** Numbers per row. */
  readonly width: number
  readonly pickRow: Uint16Array
  readonly pickWeight: Float32Array
  /** The picks that are added, all where they are missing; `outputs` has no others. */
  readonly first?: number
  readonly end?: number
  /** [end - first, width] */
  readonly outputs: Float32Array
  /** [rows, width] */
  readonly into: Float32Array
}

/**
 * Adds each pick's weighted output to its row, in pick order, each partial sum stored as float32:
 * this order (picks sorted by expert) defines the bit-exact result of a layer. Throws `RangeError` when the arrays don't fit together.
 */
export function weightedSum(picks: WeightedPicks): void {
  const { rows, width, pickRow, pickWeight, first = 0, end = pickRow.length, outputs, into } = picks
  if (pickWeight.length !== pickRow.length || outputs.length !== (end - first) * width || into.length !== rows * width) {
    throw new RangeError(`${end - first} picks of ${width} numbers into ${rows} rows: an array has the wrong length`)
  }
  for (let pick = first; pick < end; pick++) {
    const row = pickRow[pick]!
    if (!(row < rows)) throw new RangeError(`pick ${pick} names row ${row} of ${rows}`)
    const weight = pickWeight[pick]!
    const from = (pick - first) * width
    const to = row * width
    for (let i = 0; i < width; i++) into[to + i]! += weight * outputs[from + i]!
  }
}
