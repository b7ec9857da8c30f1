import { pairAt, pairsOf } from './heat-map.ts'
import type { ExpertPair, HeatMap, HeatShape } from './heat-map.ts'
import { decay, shareOf } from './rates.ts'
import type { Heat, ModelRouting } from './schema.ts'

/**
 * An author counts at most this many times what the median author does: whoever invents traffic gains little by inventing more. With one or
 * two authors the lesser one is the median. Many invented authors are not held off by this; a swarm open to strangers has no vote.
 */
const MAX_SHARE_OF_MEDIAN = 4
/** The cap moves in steps of 4 %, so that authors are seldom weighed anew. */
const CAP_STEPS_PER_DOUBLING = 16
/**
 * What an author stated decays, until it states it anew, by the nearest power of two times this: then few groups are enough, whatever
 * half-lives authors choose, and the least has some 13 spans in the hours that a record can live.
 */
const LEAST_HALF_LIFE_MS = 15 * 60_000
/** Sums are whole numbers of a unit, so that they are exact: what is taken away again leaves nothing, and no order of adding matters. */
const UNITS_PER_TOKEN = 64
/** Of one author and expert; 4,096 of them stay below 2^53. */
const MAX_UNITS = 2 ** 41

/** What one author adds, and with which weight: 1, or what brings its mass down to the cap. */
interface Part {
  /** Tokens per second, and tokens ever, over all experts, as stated. */
  readonly rateMass: number
  readonly tokenMass: number
  rateWeight: number
  tokenWeight: number
}

/** Authors of about one half-life whose rates are of the same span of it: they decay alike, so their sum does. */
interface Group {
  readonly halfLifeMs: number
  /** When the sums are as they say. */
  readonly asOfMs: number
  /** Tokens per second of one unit. */
  readonly unit: number
  authors: number
  readonly rates: Float64Array
  readonly pairs: Map<number, number>
}

/**
 * Sums over the authors of one model, kept up to date by what changes; what one author states costs the same however many there are.
 * Equal sets of authors give equal maps.
 */
export class HeatSums {
  readonly #shape: HeatShape
  readonly #parts = new Map<ModelRouting, Part>()
  readonly #groups = new Map<string, Group>()
  readonly #tokens: Float64Array
  readonly #rateMasses = new Median()
  readonly #tokenMasses = new Median()
  #rateCap = Infinity
  #tokenCap = Infinity

  constructor(shape: HeatShape) {
    this.#shape = shape
    this.#tokens = new Float64Array(shape.layers * shape.experts)
  }

  /** Takes what an author states now in the place of what it stated before. */
  change(before: ModelRouting | undefined, after: ModelRouting | undefined): void {
    const part = before === undefined ? undefined : this.#parts.get(before)
    if (before !== undefined && part !== undefined) {
      this.#add(before, part, -1)
      this.#parts.delete(before)
      this.#rateMasses.delete(part.rateMass)
      this.#tokenMasses.delete(part.tokenMass)
    }
    if (after !== undefined) {
      const rateMass =
        after.heat === undefined ? 0 : after.heat.peak * massOf(after, this.#shape, (cell) => shareOf(after.heat!.codes[cell]!))
      const tokenMass = massOf(after, this.#shape, (cell) => after.counts[cell]!)
      this.#rateMasses.add(rateMass)
      this.#tokenMasses.add(tokenMass)
      this.#parts.set(after, { rateMass, tokenMass, rateWeight: 0, tokenWeight: 0 })
    }
    this.#rateCap = capOf(this.#rateMasses)
    this.#tokenCap = capOf(this.#tokenMasses)
    for (const [routing, known] of this.#parts) this.#weigh(routing, known)
  }

  /** The map at a time, in milliseconds since 1970. A clock that is behind an author's sees its rates at most twice as high. */
  at(nowMs: number): HeatMap {
    const { layers, experts } = this.#shape
    const rates = new Float64Array(layers * experts)
    const groups = [...this.#groups].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, group]) => group)
    const scales = groups.map((group) => group.unit * decay(nowMs - group.asOfMs, group.halfLifeMs))
    groups.forEach((group, i) => group.rates.forEach((units, cell) => (rates[cell]! += units * scales[i]!)))
    const pairRates = new Map<number, number>()
    groups.forEach((group, i) => {
      for (const [key, units] of group.pairs) pairRates.set(key, (pairRates.get(key) ?? 0) + units * scales[i]!)
    })
    let pairs: ExpertPair[] | null = null
    const shape = this.#shape
    return {
      ...shape,
      rates,
      tokens: this.#tokens.slice(),
      authors: this.#parts.size,
      // Sorting costs more than all else.
      get pairs() {
        return (pairs ??= pairsOf(pairRates, shape))
      },
    }
  }

  /** Counts the author with the weight that is due to it now. */
  #weigh(routing: ModelRouting, part: Part): void {
    const rateWeight = part.rateMass > this.#rateCap ? this.#rateCap / part.rateMass : 1
    const tokenWeight = part.tokenMass > this.#tokenCap ? this.#tokenCap / part.tokenMass : 1
    if (rateWeight === part.rateWeight && tokenWeight === part.tokenWeight) return
    if (part.tokenWeight > 0) this.#add(routing, part, -1)
    part.rateWeight = rateWeight
    part.tokenWeight = tokenWeight
    this.#add(routing, part, 1)
  }

  #add(routing: ModelRouting, { rateWeight, tokenWeight }: Part, sign: 1 | -1): void {
    const { counts, heat } = routing
    forEachCell(routing, this.#shape, (from, to) => {
      this.#tokens[to]! += sign * Math.min(MAX_UNITS, Math.round(counts[from]! * tokenWeight))
    })
    if (heat !== undefined) this.#addHeat(routing, heat, rateWeight, sign)
  }

  #addHeat(routing: ModelRouting, heat: Heat, weight: number, sign: 1 | -1): void {
    const { layers, experts } = this.#shape
    const halfLifeMs = LEAST_HALF_LIFE_MS * 2 ** Math.max(0, Math.round(Math.log2(heat.halfLifeMs / LEAST_HALF_LIFE_MS)))
    const span = Math.floor(heat.asOfMs / halfLifeMs)
    const name = `${halfLifeMs}/${span}`
    const group = this.#groups.get(name) ?? newGroup(halfLifeMs, span, this.#shape)
    if (group.authors === 0) this.#groups.set(name, group)
    group.authors += sign
    if (group.authors === 0) this.#groups.delete(name)
    // As they were at the beginning of the span: at most twice what they are.
    const peakUnits = (heat.peak * weight) / decay(heat.asOfMs - group.asOfMs, halfLifeMs) / group.unit
    const unitsOf = (code: number): number => Math.min(MAX_UNITS, Math.round(peakUnits * shareOf(code)))
    forEachCell(routing, this.#shape, (from, to) => {
      group.rates[to]! += sign * unitsOf(heat.codes[from]!)
    })
    heat.pairs.codes.forEach((code, at) => {
      const pair = pairAt(heat.pairs.keys[at]!, routing.experts)
      if (pair.layer >= layers || pair.b >= experts) return
      const key = (pair.layer * experts + pair.a) * experts + pair.b
      const units = (group.pairs.get(key) ?? 0) + sign * unitsOf(code)
      if (units === 0) group.pairs.delete(key)
      else group.pairs.set(key, units)
    })
  }
}

function newGroup(halfLifeMs: number, span: number, { layers, experts }: HeatShape): Group {
  // A power of two: multiplying by it rounds nothing.
  const unit = 2 ** -Math.ceil(Math.log2((halfLifeMs / 1000) * UNITS_PER_TOKEN))
  return { halfLifeMs, asOfMs: span * halfLifeMs, unit, authors: 0, rates: new Float64Array(layers * experts), pairs: new Map() }
}

function capOf(masses: Median): number {
  const median = masses.value
  if (median === 0) return Infinity
  return MAX_SHARE_OF_MEDIAN * 2 ** (Math.floor(Math.log2(median) * CAP_STEPS_PER_DOUBLING) / CAP_STEPS_PER_DOUBLING)
}

/** The lower median of the numbers above 0. */
class Median {
  readonly #sorted: number[] = []

  get value(): number {
    return this.#sorted[(this.#sorted.length - 1) >> 1] ?? 0
  }

  add(value: number): void {
    if (value > 0) this.#sorted.splice(this.#indexOf(value), 0, value)
  }

  delete(value: number): void {
    if (value > 0) this.#sorted.splice(this.#indexOf(value), 1)
  }

  /** Of the first that is not less. */
  #indexOf(value: number): number {
    let from = 0
    let to = this.#sorted.length
    while (from < to) {
      const middle = (from + to) >> 1
      if (this.#sorted[middle]! < value) from = middle + 1
      else to = middle
    }
    return from
  }
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
