/** The (row, expert) pairs of one layer, sorted by expert, then row; weights alongside. */
export interface Picks {
  readonly pickRow: Uint16Array
  readonly pickExpert: Uint16Array
  readonly pickWeight: Float32Array
}

/** Rows that fit a pick's row number. */
export const MAX_PICK_ROWS = 65_536

/**
 * Turns the router's choice (`experts`, `weights`: [rows, k]) into picks sorted by expert, then row.
 * `experts` must be smaller than `expertCount` (at most 65,536); throws `RangeError` otherwise.
 */
export function picksOf(
  routing: { readonly experts: Int32Array; readonly weights: Float32Array },
  rows: number,
  expertCount: number,
): Picks {
  const total = routing.experts.length
  const perRow = total / rows
  if (!Number.isInteger(perRow) || routing.weights.length !== total || rows > MAX_PICK_ROWS) {
    throw new RangeError(`${total} choices and ${routing.weights.length} weights do not make ${rows} rows`)
  }
  // Counting sort: rows are visited in order, so each expert's rows come out ascending.
  const next = new Uint32Array(expertCount + 1)
  for (const expert of routing.experts) {
    if (expert < 0 || expert >= expertCount) throw new RangeError(`expert ${expert} of ${expertCount}`)
    next[expert + 1]!++
  }
  for (let expert = 0; expert < expertCount; expert++) next[expert + 1]! += next[expert]!
  const pickRow = new Uint16Array(total)
  const pickExpert = new Uint16Array(total)
  const pickWeight = new Float32Array(total)
  for (let choice = 0; choice < total; choice++) {
    const expert = routing.experts[choice]!
    const at = next[expert]!++
    pickRow[at] = Math.floor(choice / perRow)
    pickExpert[at] = expert
    pickWeight[at] = routing.weights[choice]!
  }
  return { pickRow, pickExpert, pickWeight }
}
