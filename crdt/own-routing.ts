import { InvalidMessageError, LimitExceededError } from '../protocols/wire/errors.ts'
import { codeOf, decay, shareOf } from './rates.ts'
import { LIMITS } from './schema.ts'
import type { ModelRouting, PackedPairs, Routing, RoutingCounts } from './schema.ts'
import { encodeTopic } from './topic-codec.ts'

/** What drivers routed since the last time they were asked. */
export interface RoutedDelta extends RoutingCounts {
  /** Per layer: pairs of experts that one token used both, key `a * experts + b` with a < b → tokens. */
  readonly pairs?: readonly ReadonlyMap<number, number>[]
}

/** Pairs stated per layer, and remembered per layer, so that one that becomes popular is not missed. */
const STATED_PAIRS = 32
const REMEMBERED_PAIRS = 256
/** Counts are stated to so many significant bits (0.05 %), rounded down so that they never fall: the zeros after them deflate well. */
const STATED_BITS = 11

interface ModelLog {
  readonly layers: number
  readonly experts: number
  /** Tokens ever, [layers * experts]. */
  readonly counts: Float64Array
  asOfMs: number
  /** Tokens per second, [layers * experts]. */
  readonly rates: Float64Array
  /** Per layer: `a * experts + b` → tokens per second. */
  readonly pairs: Map<number, number>[]
}

/** What this node's drivers routed: all-time counts, and rates that fall by half in each half-life. */
export class OwnRouting {
  readonly #models = new Map<string, ModelLog>()
  readonly #halfLifeMs: number

  constructor(halfLifeMs: number) {
    this.#halfLifeMs = halfLifeMs
  }

  /** Throws `InvalidMessageError` for a shape other than the model had before. */
  add(model: string, delta: RoutedDelta, nowMs: number): void {
    const log = this.#log(model, delta, nowMs)
    if (log.layers !== delta.layers || log.experts !== delta.experts) {
      throw new InvalidMessageError(`${model} has ${log.layers} layers of ${log.experts} experts, not ${delta.layers} of ${delta.experts}`)
    }
    this.#age(log, nowMs)
    // A steady rate r adds up to r × halfLife / ln 2.
    const perToken = Math.LN2 / (this.#halfLifeMs / 1000)
    for (let cell = 0; cell < log.counts.length; cell++) {
      log.counts[cell]! += delta.counts[cell]!
      log.rates[cell]! += delta.counts[cell]! * perToken
    }
    delta.pairs?.forEach((pairs, layer) => {
      const known = log.pairs[layer]!
      for (const [key, tokens] of pairs) known.set(key, (known.get(key) ?? 0) + tokens * perToken)
      if (known.size > 2 * REMEMBERED_PAIRS) log.pairs[layer] = new Map(heaviest(known, REMEMBERED_PAIRS))
    })
  }

  /** Takes over an earlier statement of this node: the greater counts, and its rates where there are none yet. */
  join(routing: Routing, nowMs: number): void {
    for (const [model, { layers, experts, counts, heat }] of routing) {
      const log = this.#log(model, { layers, experts, counts }, nowMs)
      if (log.layers !== layers || log.experts !== experts) continue
      for (let cell = 0; cell < log.counts.length; cell++) log.counts[cell] = Math.max(log.counts[cell]!, counts[cell]!)
      if (heat === undefined || log.rates.some((rate) => rate > 0)) continue
      this.#age(log, nowMs)
      const left = heat.peak * decay(nowMs - heat.asOfMs, heat.halfLifeMs)
      heat.codes.forEach((code, cell) => (log.rates[cell] = left * shareOf(code)))
      heat.pairs.keys.forEach((key, i) =>
        log.pairs[Math.floor(key / experts ** 2)]!.set(key % experts ** 2, left * shareOf(heat.pairs.codes[i]!)),
      )
    }
  }

  /** What to state: as many models as fit into the topic, those used most of late first. Throws `LimitExceededError` when not one fits. */
  value(nowMs: number): Routing {
    for (const log of this.#models.values()) this.#age(log, nowMs)
    const models = [...this.#models].map(([model, log]) => ({ model, log, peak: peakOf(log) }))
    models.sort((a, b) => b.peak - a.peak || (a.model < b.model ? -1 : 1))
    for (let count = Math.min(models.length, LIMITS.maxModels); ; count--) {
      const chosen = models.slice(0, count)
      const layers = chosen.reduce((sum, { log }) => sum + log.layers, 0)
      const pairs = Math.min(STATED_PAIRS, Math.floor(LIMITS.maxPairs / Math.max(1, layers)))
      const value = new Map(chosen.map(({ model, log, peak }) => [model, this.#statement(log, peak, pairs)]))
      try {
        encodeTopic('routing', value)
        return value
      } catch (error) {
        if (count <= 1 || !(error instanceof LimitExceededError)) throw error
      }
    }
  }

  #statement(log: ModelLog, peak: number, pairsPerLayer: number): ModelRouting {
    const { layers, experts, asOfMs } = log
    const counts = log.counts.map(floorToBits)
    if (peak === 0) return { layers, experts, counts }
    const codes = Uint8Array.from(log.rates, (rate) => codeOf(rate, peak))
    return {
      layers,
      experts,
      counts,
      heat: { asOfMs, halfLifeMs: this.#halfLifeMs, peak, codes, pairs: packPairs(log, peak, pairsPerLayer) },
    }
  }

  #log(model: string, { layers, experts }: RoutingCounts, nowMs: number): ModelLog {
    let log = this.#models.get(model)
    if (log === undefined) {
      const cells = layers * experts
      const pairs = Array.from({ length: layers }, () => new Map<number, number>())
      log = { layers, experts, counts: new Float64Array(cells), asOfMs: nowMs, rates: new Float64Array(cells), pairs }
      this.#models.set(model, log)
    }
    return log
  }

  #age(log: ModelLog, nowMs: number): void {
    const left = decay(nowMs - log.asOfMs, this.#halfLifeMs)
    log.asOfMs = nowMs
    if (left === 1) return
    for (let i = 0; i < log.rates.length; i++) log.rates[i]! *= left
    for (const pairs of log.pairs) for (const [key, rate] of pairs) pairs.set(key, rate * left)
  }
}

function packPairs(log: ModelLog, peak: number, perLayer: number): PackedPairs {
  const { experts } = log
  const pairs = log.pairs.flatMap((known, layer) =>
    heaviest(known, perLayer)
      .map(([key, rate]) => ({ key: layer * experts ** 2 + key, code: codeOf(rate, peak) }))
      .filter(({ code }) => code > 0)
      .sort((a, b) => a.key - b.key),
  )
  return { keys: Float64Array.from(pairs, ({ key }) => key), codes: Uint8Array.from(pairs, ({ code }) => code) }
}

function heaviest(pairs: ReadonlyMap<number, number>, count: number): [key: number, rate: number][] {
  return [...pairs].sort((a, b) => b[1] - a[1] || a[0] - b[0]).slice(0, count)
}

function peakOf(log: ModelLog): number {
  const peak = log.rates.reduce((max, rate) => Math.max(max, rate), 0)
  return Math.min(LIMITS.maxRate, Math.fround(peak))
}

function floorToBits(count: number): number {
  const unit = 2 ** Math.max(0, Math.floor(Math.log2(count)) + 1 - STATED_BITS)
  return count < 2 ** STATED_BITS ? count : Math.floor(count / unit) * unit
}
