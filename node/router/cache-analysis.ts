/**
 * How well a routing trace can be cached: hit rates of replacement policies, and the two metrics of "Not All Models Suit Expert Offloading"
 * (arXiv 2505.16056). Pure.
 */
import type { RoutingTrace } from './routing-trace.ts'

/**
 * `lru`, `lfu`: the expert unused for longest, or used least so far, goes. `heat`: the experts of most decayed use are kept, as `--cache`
 * does; a miss is computed elsewhere and fetches nothing by itself. `belady`: the expert whose next use is farthest goes, which no policy
 * can beat.
 */
export const POLICIES = Object.freeze(['lru', 'lfu', 'heat', 'belady'] as const)
export type Policy = (typeof POLICIES)[number]

export interface HitRate {
  /** Of single experts. */
  readonly hits: number
  /** Of (token, layer) pairs of which all experts were there: P(all k local). */
  readonly allHits: number
}

/** Tokens after which a use counts half to the `heat` policy. */
const HEAT_HALF_LIFE_TOKENS = 64

/** Hit rates of a cache of `capacity` experts per layer that starts empty and sees the sequences one after the other. */
export function hitRate(trace: RoutingTrace, policy: Policy, capacity: number): HitRate {
  const { layers, experts, expertsPerToken: k } = trace
  let hits = 0
  let allHits = 0
  let tokens = 0
  for (let layer = 0; layer < layers; layer++) {
    const chosen = trace.sequences.flatMap((sequence) => sequence[layer]!)
    const cache = new LayerCache(policy, capacity, experts, chosen, k)
    for (let token = 0; token * k < chosen.length; token++) {
      const found = cache.use(token)
      hits += found
      if (found === k) allHits++
      tokens++
    }
  }
  return { hits: hits / (tokens * k), allHits: allHits / tokens }
}

class LayerCache {
  readonly #policy: Policy
  readonly #capacity: number
  readonly #chosen: readonly number[]
  readonly #k: number
  readonly #cached = new Set<number>()
  /** What keeps an expert in the cache, by policy; the least goes. */
  readonly #worth: Float64Array
  /** Belady: for each pick, the token of the expert's next use. */
  readonly #nextUse: Float64Array

  constructor(policy: Policy, capacity: number, experts: number, chosen: readonly number[], k: number) {
    this.#policy = policy
    this.#capacity = capacity
    this.#chosen = chosen
    this.#k = k
    this.#worth = new Float64Array(experts)
    this.#nextUse = new Float64Array(chosen.length).fill(Infinity)
    const seen = new Map<number, number>()
    for (let i = chosen.length - 1; i >= 0; i--) {
      this.#nextUse[i] = seen.get(chosen[i]!) ?? Infinity
      seen.set(chosen[i]!, Math.floor(i / k))
    }
  }

  /** How many of the token's experts were there; takes note of them. */
  use(token: number): number {
    const picks = this.#chosen.slice(token * this.#k, (token + 1) * this.#k)
    const found = picks.filter((expert) => this.#cached.has(expert)).length
    picks.forEach((expert, i) => this.#note(expert, token, token * this.#k + i))
    if (this.#policy === 'heat') this.#keepHottest()
    else this.#insert(picks)
    return found
  }

  #note(expert: number, token: number, pick: number): void {
    if (this.#policy === 'lru') this.#worth[expert] = token + 1
    else if (this.#policy === 'lfu') this.#worth[expert]!++
    // Later uses grow instead of earlier ones shrinking: the order is the same.
    else if (this.#policy === 'heat') this.#worth[expert]! += 2 ** (token / HEAT_HALF_LIFE_TOKENS)
    else this.#worth[expert] = -this.#nextUse[pick]!
  }

  #insert(picks: readonly number[]): void {
    for (const expert of picks) this.#cached.add(expert)
    while (this.#cached.size > this.#capacity) {
      let least = -1
      for (const expert of this.#cached) {
        const isBusy = picks.includes(expert) && this.#capacity >= picks.length && this.#policy !== 'belady'
        if (!isBusy && (least === -1 || this.#worth[expert]! < this.#worth[least]!)) least = expert
      }
      this.#cached.delete(least)
    }
  }

  #keepHottest(): void {
    const used = [...this.#worth.keys()].filter((expert) => this.#worth[expert]! > 0)
    const hottest = used.sort((a, b) => this.#worth[b]! - this.#worth[a]!).slice(0, this.#capacity)
    this.#cached.clear()
    for (const expert of hottest) this.#cached.add(expert)
  }
}

/**
 * Segment Routing Best Performance: how well a fixed group of experts can stand for what the router chooses over `length` tokens in a row.
 * Experts that a segment uses at least so often form its group; the F1 of group and choices, over all segments, at the best threshold.
 */
export function segmentRoutingPerformance(trace: RoutingTrace, length: number): number {
  const histogram = new Float64Array(length + 1)
  forEachSegment(trace, length, (counts) => counts.forEach((count) => histogram[count]!++))
  let uses = 0
  histogram.forEach((segments, count) => (uses += segments * count))
  let matches = 0
  let predictions = 0
  let best = 0
  for (let threshold = length; threshold >= 1; threshold--) {
    matches += histogram[threshold]! * threshold
    predictions += histogram[threshold]! * length
    if (predictions + uses > 0) best = Math.max(best, (2 * matches) / (predictions + uses))
  }
  return best
}

/** Segment Cache Best Hit Rate: what a cache of `capacity` experts per layer hits that is filled for each `length` tokens with those they use most. */
export function segmentCacheHitRate(trace: RoutingTrace, length: number, capacity: number): number {
  let hits = 0
  let uses = 0
  forEachSegment(trace, length, (counts) => {
    const sorted = Float64Array.from(counts).sort().reverse()
    sorted.forEach((count, rank) => {
      uses += count
      if (rank < capacity) hits += count
    })
  })
  return uses === 0 ? 0 : hits / uses
}

/** Every run of `length` tokens of every sequence and layer: how often each expert was chosen. The array is reused. */
function forEachSegment(trace: RoutingTrace, length: number, visit: (counts: Uint32Array) => void): void {
  const { experts, expertsPerToken: k } = trace
  for (const sequence of trace.sequences) {
    for (const chosen of sequence) {
      const counts = new Uint32Array(experts)
      for (let i = 0; i < chosen.length; i++) {
        counts[chosen[i]!]!++
        if (i >= length * k) counts[chosen[i - length * k]!]!--
        if ((i + 1) % k === 0 && i + 1 >= length * k) visit(counts)
      }
    }
  }
}
