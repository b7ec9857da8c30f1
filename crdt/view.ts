import { bitmapHas } from './bitmap.ts'
import type { ExpertPair, HeatMap } from './heat-map.ts'
import { HeatSums } from './heat-sums.ts'
import { HolderIndex } from './holder-index.ts'
import type { TopicRecord } from './record.ts'
import { reputationOf } from './reputation.ts'
import type { Reputation } from './reputation.ts'
import type { RoutingCounts } from './schema.ts'

/** What the swarm knows of one author now. */
export interface AuthorView extends TopicRecord {
  /** When the newest record arrived here, milliseconds since 1970 by this node's clock. */
  readonly updatedAt: number
  /** When the author leaves the view unless a newer record comes. */
  readonly expiresAt: number
}

export interface LedgerCoverage {
  /** Experts of the model, over all layers. */
  readonly experts: number
  /** Experts with at least one live host. */
  readonly covered: number
  /** Live hosts of the rarest expert. */
  readonly minReplicas: number
}

/** All live authors' records, merged; never changes once made. */
export interface LedgerView {
  /** Peer id → what it states, sorted by peer id. */
  readonly authors: ReadonlyMap<string, AuthorView>
  /** Peer ids that state to serve the expert, sorted. */
  holders(model: string, layer: number, expert: number): readonly string[]
  /** Those of them that do not state to be about to give it up. */
  stayers(model: string, layer: number, expert: number): readonly string[]
  coverage(model: string, layers: number, experts: number): LedgerCoverage
  /** Tokens routed, summed over all authors: [layers * experts], row-major. Counts outside this shape are left out. Don't write to it. */
  routed(model: string, layers: number, experts: number): Float64Array
  /**
   * How much each expert is used of late and was ever, every author's part capped; ages with `nowMs`, in steps of 10 s. Equal views give
   * equal maps.
   */
  heat(model: string, at: HeatQuery): HeatMap
  /** Pairs of experts that tokens use together, as in {@link HeatMap}. */
  coactivation(model: string, at: HeatQuery): readonly ExpertPair[]
  /** What others measured of a peer. */
  reputation(peer: string): Reputation
}

/** The model's shape, and when: what authors state outside of the shape is left out. */
export interface HeatQuery {
  readonly layers: number
  readonly experts: number
  /** Milliseconds since 1970. */
  readonly nowMs: number
}

/** Heat maps are made for such a span of time: far below any half-life that makes sense. */
const HEAT_STEP_MS = 10_000

/** One author's state before and after; undefined where it was or is not in the view. */
export interface AuthorChange {
  readonly peer: string
  readonly before: AuthorView | undefined
  readonly after: AuthorView | undefined
}

interface ModelHeat {
  readonly model: string
  readonly sums: HeatSums
  /** The map of one moment. */
  latest: { readonly stepMs: number; readonly map: HeatMap } | null
}

interface Totals {
  readonly model: string
  readonly layers: number
  readonly experts: number
  readonly counts: Float64Array
}

/** A merged view that takes over from its predecessor all that the changes between them did not touch. */
export class MergedView implements LedgerView {
  readonly authors: ReadonlyMap<string, AuthorView>
  readonly #holders: Map<string, HolderIndex>
  readonly #totals: Map<string, Totals>
  /** By model and shape. The newest view has them: one that is asked again after its successor was made makes them anew. */
  #heat = new Map<string, ModelHeat>()

  readonly #reputations: Map<string, Reputation>

  constructor(authors: ReadonlyMap<string, AuthorView>, previous?: MergedView, changes: Iterable<AuthorChange> = []) {
    this.authors = authors
    this.#holders = new Map(previous === undefined ? [] : previous.#holders)
    this.#totals = new Map(previous === undefined ? [] : previous.#totals)
    if (previous !== undefined) {
      this.#heat = previous.#heat
      previous.#heat = new Map()
    }
    this.#reputations = new Map(previous === undefined ? [] : previous.#reputations)
    const fresh = new Set<string>()
    for (const { peer, before, after } of changes) {
      if (before?.holdings !== after?.holdings) {
        for (const [model, index] of this.#holders) {
          this.#holders.set(model, index.changed(peer, before?.holdings?.get(model), after?.holdings?.get(model)))
        }
      }
      if (before?.observed !== after?.observed) {
        for (const observed of [before?.observed, after?.observed])
          for (const other of observed?.keys() ?? []) this.#reputations.delete(other)
      }
      if (before?.routing === after?.routing) continue
      for (const heat of this.#heat.values()) {
        const [from, to] = [before?.routing?.get(heat.model), after?.routing?.get(heat.model)]
        if (from === to) continue
        heat.sums.change(from, to)
        heat.latest = null
      }
      for (const [key, totals] of this.#totals) {
        const from = before?.routing?.get(totals.model)
        const to = after?.routing?.get(totals.model)
        if (from === to) continue
        const counts = fresh.has(key) ? totals.counts : totals.counts.slice()
        fresh.add(key)
        addCounts(counts, totals, from, -1)
        addCounts(counts, totals, to, 1)
        this.#totals.set(key, { ...totals, counts })
      }
    }
  }

  holders(model: string, layer: number, expert: number): readonly string[] {
    return this.#index(model).at(layer, expert)
  }

  stayers(model: string, layer: number, expert: number): readonly string[] {
    const holders = this.holders(model, layer, expert)
    const isStaying = (peer: string): boolean => !bitmapHas(this.authors.get(peer)?.leaving?.get(model)?.[layer], expert)
    return holders.every(isStaying) ? holders : holders.filter(isStaying)
  }

  coverage(model: string, layers: number, experts: number): LedgerCoverage {
    const index = this.#index(model)
    let covered = 0
    let minReplicas = Infinity
    for (let layer = 0; layer < layers; layer++) {
      for (let expert = 0; expert < experts; expert++) {
        const replicas = index.at(layer, expert).length
        if (replicas > 0) covered++
        if (replicas < minReplicas) minReplicas = replicas
      }
    }
    return { experts: layers * experts, covered, minReplicas: minReplicas === Infinity ? 0 : minReplicas }
  }

  routed(model: string, layers: number, experts: number): Float64Array {
    const key = `${model}/${layers}/${experts}`
    const known = this.#totals.get(key)
    if (known !== undefined) return known.counts
    const totals: Totals = { model, layers, experts, counts: new Float64Array(layers * experts) }
    for (const { routing } of this.authors.values()) addCounts(totals.counts, totals, routing?.get(model), 1)
    this.#totals.set(key, totals)
    return totals.counts
  }

  heat(model: string, { layers, experts, nowMs }: HeatQuery): HeatMap {
    const key = `${model}/${layers}/${experts}`
    const stepMs = Math.floor(nowMs / HEAT_STEP_MS) * HEAT_STEP_MS
    let heat = this.#heat.get(key)
    if (heat === undefined) {
      this.#heat.set(key, (heat = { model, sums: new HeatSums({ layers, experts }), latest: null }))
      for (const { routing } of this.authors.values()) heat.sums.change(undefined, routing?.get(model))
    }
    if (heat.latest?.stepMs !== stepMs) heat.latest = { stepMs, map: heat.sums.at(stepMs) }
    return heat.latest.map
  }

  coactivation(model: string, at: HeatQuery): readonly ExpertPair[] {
    return this.heat(model, at).pairs
  }

  reputation(peer: string): Reputation {
    let reputation = this.#reputations.get(peer)
    if (reputation === undefined) {
      reputation = reputationOf(peer, this.authors)
      this.#reputations.set(peer, reputation)
    }
    return reputation
  }

  #index(model: string): HolderIndex {
    let index = this.#holders.get(model)
    if (index === undefined) {
      index = HolderIndex.of(model, this.authors)
      this.#holders.set(model, index)
    }
    return index
  }
}

function addCounts(into: Float64Array, shape: Totals, from: RoutingCounts | undefined, sign: 1 | -1): void {
  if (from === undefined) return
  const layers = Math.min(shape.layers, from.layers)
  const experts = Math.min(shape.experts, from.experts)
  for (let layer = 0; layer < layers; layer++) {
    for (let expert = 0; expert < experts; expert++) {
      into[layer * shape.experts + expert]! += sign * from.counts[layer * from.experts + expert]!
    }
  }
}
