import { decay, shareOf } from './rates.ts'
import type { ModelRouting } from './schema.ts'

/** What the swarm routed of one model, summed over its authors, each weighed down to {@link MAX_SHARE_OF_MEDIAN}. */
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

/**
 * An author counts at most this many times what the median author does: whoever invents traffic gains little by inventing more. With one or
 * two authors the lesser one is the median. Many invented authors are not held off by this; a swarm open to strangers has no vote.
 */
const MAX_SHARE_OF_MEDIAN = 4

/** Merges what authors state, in the order given: floating-point sums depend on it, so pass them sorted by peer. Pure. */
export function mergeHeat(authors: readonly ModelRouting[], shape: HeatShape, nowMs: number): HeatMap {
  const { layers, experts } = shape
  const rates = new Float64Array(layers * experts)
  const tokens = new Float64Array(layers * experts)
  const pairs = new Map<number, number>()
  const factors = authors.map(({ heat }) => (heat === undefined ? 0 : heat.peak * decay(nowMs - heat.asOfMs, heat.halfLifeMs)))
  const rateWeights = capped(
    authors.map((author, i) => massOf(author, shape, (cell) => factors[i]! * shareOf(author.heat?.codes[cell] ?? 0))),
  )
  const tokenWeights = capped(authors.map((author) => massOf(author, shape, (cell) => author.counts[cell]!)))
  authors.forEach((author, i) => {
    const scale = factors[i]! * rateWeights[i]!
    forEachCell(author, shape, (from, to) => {
      tokens[to]! += author.counts[from]! * tokenWeights[i]!
      if (author.heat !== undefined) rates[to]! += scale * shareOf(author.heat.codes[from]!)
    })
    author.heat?.pairs.codes.forEach((code, at) => {
      const pair = pairAt(author.heat!.pairs.keys[at]!, author.experts)
      if (pair.layer >= layers || pair.b >= experts) return
      const key = (pair.layer * experts + pair.a) * experts + pair.b
      pairs.set(key, (pairs.get(key) ?? 0) + scale * shareOf(code))
    })
  })
  const listed = [...pairs].map(([key, rate]): ExpertPair => ({ ...pairAt(key, experts), rate }))
  listed.sort((x, y) => x.layer - y.layer || y.rate - x.rate || x.a - y.a || x.b - y.b)
  return { layers, experts, rates, tokens, pairs: listed, authors: authors.length }
}

/** The weight of each author: 1, or what brings its mass down to the cap. */
function capped(masses: readonly number[]): number[] {
  const sorted = masses.filter((mass) => mass > 0).sort((a, b) => a - b)
  const cap = MAX_SHARE_OF_MEDIAN * (sorted[(sorted.length - 1) >> 1] ?? 0)
  return masses.map((mass) => (mass > cap ? cap / mass : 1))
}

function massOf(author: ModelRouting, shape: HeatShape, at: (cell: number) => number): number {
  let mass = 0
  forEachCell(author, shape, (from) => (mass += at(from)))
  return mass
}

/** Every cell that author and map have in common. */
function forEachCell(author: ModelRouting, shape: HeatShape, visit: (from: number, to: number) => void): void {
  const layers = Math.min(shape.layers, author.layers)
  const experts = Math.min(shape.experts, author.experts)
  for (let layer = 0; layer < layers; layer++) {
    for (let expert = 0; expert < experts; expert++) visit(layer * author.experts + expert, layer * shape.experts + expert)
  }
}

function pairAt(key: number, experts: number): { readonly layer: number; readonly a: number; readonly b: number } {
  const inLayer = key % (experts * experts)
  return { layer: Math.floor(key / (experts * experts)), a: Math.floor(inLayer / experts), b: inLayer % experts }
}
