/** How often the drivers of this node routed a row to an expert, [layers × experts], row-major, and which experts they used together. */
export interface RoutedRows {
  readonly layers: number
  readonly experts: number
  readonly counts: Float64Array
  /** Per layer: `a * experts + b` with a < b → rows that used both. */
  readonly pairs: readonly Map<number, number>[]
}

/** Rows of a batch whose pairs are counted, each for as many as it stands for: a long prompt must not cost more than it tells. */
const PAIR_ROWS = 16
/** Pairs remembered per layer; beyond it the rarer half is forgotten. All pairs of 64 experts, many times the top ones of more. */
const MAX_PAIRS = 2048

/** Counts the router's choices between two reports to the ledger, which sums them up. */
export class RoutingCounts {
  readonly #models = new Map<string, RoutedRows>()

  /** Begins counting for a model. */
  open(model: string, layers: number, experts: number): void {
    const pairs = Array.from({ length: layers }, () => new Map<number, number>())
    this.#models.set(model, { layers, experts, counts: new Float64Array(layers * experts), pairs })
  }

  /** `chosen`: [rows, k], the experts of each row. */
  add(model: string, layer: number, chosen: Int32Array, rows: number): void {
    const entry = this.#models.get(model)
    if (entry === undefined) return
    const base = layer * entry.experts
    for (const expert of chosen) entry.counts[base + expert]!++
    const k = chosen.length / rows
    const stride = Math.ceil(rows / PAIR_ROWS)
    const pairs = entry.pairs[layer]!
    for (let row = 0; row < rows; row += stride) {
      for (let i = row * k; i < row * k + k; i++) {
        for (let j = i + 1; j < row * k + k; j++) {
          const [x, y] = [chosen[i]!, chosen[j]!]
          const key = x < y ? x * entry.experts + y : y * entry.experts + x
          pairs.set(key, (pairs.get(key) ?? 0) + Math.min(stride, rows - row))
        }
      }
    }
    if (pairs.size > MAX_PAIRS) forgetRarest(pairs)
  }

  /** What was counted since the last time, for models that were used. */
  take(): Map<string, RoutedRows> {
    const taken = new Map<string, RoutedRows>()
    for (const [model, rows] of this.#models) {
      if (rows.counts.every((count) => count === 0)) continue
      taken.set(model, rows)
      this.open(model, rows.layers, rows.experts)
    }
    return taken
  }
}

function forgetRarest(pairs: Map<number, number>): void {
  const kept = [...pairs].sort((a, b) => b[1] - a[1]).slice(0, MAX_PAIRS / 2)
  pairs.clear()
  for (const [key, count] of kept) pairs.set(key, count)
}
