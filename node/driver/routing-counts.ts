/** How often the drivers of this node routed a row to an expert, [layers × experts], row-major. */
export interface RoutedRows {
  readonly layers: number
  readonly experts: number
  readonly counts: Float64Array
}

/** Counts the router's choices between two reports to the ledger, which sums them up. */
export class RoutingCounts {
  readonly #models = new Map<string, RoutedRows>()

  /** Begins counting for a model. */
  open(model: string, layers: number, experts: number): void {
    this.#models.set(model, { layers, experts, counts: new Float64Array(layers * experts) })
  }

  /** One count per pick. */
  add(model: string, layer: number, pickExpert: Uint16Array): void {
    const entry = this.#models.get(model)
    if (entry === undefined) return
    const base = layer * entry.experts
    for (const expert of pickExpert) entry.counts[base + expert]!++
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
