/** What the swarm routed of one model, summed over its authors, each weighed down to a few times the median author; see `heat-sums.ts`. */
export interface HeatMap {
  readonly layers: number
  readonly experts: number
  /** Tokens per second of late: [layers * experts], row-major. Don't write to it. */
  readonly rates: Float64Array
  /** Tokens ever, in the same shape. */
  readonly tokens: Float64Array
  /** Pairs of experts that tokens use together, by layer, the most used first; only the top ones of each author are known. */
  readonly pairs: readonly ExpertPair[]
  /** Authors that contributed. */
  readonly authors: number
}

/** Two experts of one layer, `a < b`, and how many tokens per second used both. */
export interface ExpertPair {
  readonly layer: number
  readonly a: number
  readonly b: number
  readonly rate: number
}

export interface HeatShape {
  readonly layers: number
  readonly experts: number
}

/** The pairs of `(layer * experts + a) * experts + b` → rate, by layer, the most used first. */
export function pairsOf(rates: ReadonlyMap<number, number>, { layers, experts }: HeatShape): ExpertPair[] {
  const byLayer = Array.from({ length: layers }, (): ExpertPair[] => [])
  for (const [key, rate] of rates) {
    const pair = pairAt(key, experts)
    byLayer[pair.layer]!.push({ ...pair, rate })
  }
  return byLayer.flatMap((pairs) => pairs.sort((x, y) => y.rate - x.rate || x.a - y.a || x.b - y.b))
}

export function pairAt(key: number, experts: number): { readonly layer: number; readonly a: number; readonly b: number } {
  const inLayer = key % (experts * experts)
  return { layer: Math.floor(key / (experts * experts)), a: Math.floor(inLayer / experts), b: inLayer % experts }
}
