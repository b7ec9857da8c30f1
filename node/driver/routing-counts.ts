/** How often this node's drivers routed a row to each expert since the node's identity was made; grow-only. */
export class RoutingCounts {
  readonly #models = new Map<string, { readonly experts: number; readonly counts: Float64Array }>()

  /** Begins counting for a model, from counts of an earlier run where there are any. */
  open(model: string, layers: number, experts: number, earlier?: ArrayLike<number>): void {
    const counts = new Float64Array(layers * experts)
    if (earlier !== undefined && earlier.length === counts.length) counts.set(earlier)
    this.#models.set(model, { experts, counts })
  }

  /** One count per pick. */
  add(model: string, layer: number, pickExpert: Uint16Array): void {
    const entry = this.#models.get(model)
    if (entry === undefined) return
    const base = layer * entry.experts
    for (const expert of pickExpert) entry.counts[base + expert]!++
  }

  /** [layers × experts] of each model. */
  snapshot(): Map<string, Float64Array> {
    return new Map([...this.#models].map(([model, { counts }]) => [model, counts.slice()]))
  }
}
