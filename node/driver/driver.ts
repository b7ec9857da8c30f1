import { randomInt } from 'node:crypto'
import { BusyError, ModelMissingError } from '../errors.ts'
import { Batcher } from './batcher.ts'
import type { Completeness } from './completeness.ts'
import { generate } from './generation.ts'
import type { DrivenModel } from './generation.ts'
import type { LayerLoopComponents } from './layer-loop.ts'
import type { Combine, QueryEvent, QueryRequest, QueryService, Sampling, WireType } from './query.ts'
import { PrefixStore } from './prefix-store.ts'
import { Tally } from './tally.ts'

export interface DriverInit {
  /** Used where a request says nothing. */
  readonly wire: WireType
  readonly combine: Combine
}

export interface DriverComponents extends LayerLoopComponents {
  /** Refuses queries to models that can't answer. */
  readonly completeness: Pick<Completeness, 'check'>
}

/** Queries that advance at once; more would only slow each other. */
const MAX_ACTIVE = 16
/** Queries that may wait for a place. */
const MAX_WAITING = 64

/** Share of the key-value memory that past queries may keep for those that begin alike. */
const KEPT_SHARE = 0.5

/** OpenAI's defaults, where neither request nor model says otherwise. */
const SAMPLING_DEFAULTS: Omit<Sampling, 'seed'> = Object.freeze({
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
})

/** Answers queries on the models whose trunks are open here. */
export class Driver implements QueryService {
  readonly #completeness: DriverComponents['completeness']
  readonly #batchers: ReadonlyMap<DrivenModel, Batcher>
  readonly #init: DriverInit
  readonly #models: readonly DrivenModel[]
  readonly #stopping = new AbortController()
  readonly #waiting: (() => void)[] = []
  #active = 0

  constructor(components: DriverComponents, models: readonly DrivenModel[], init: DriverInit) {
    this.#completeness = components.completeness
    // The models' trunks share one memory.
    const prefixes = new PrefixStore({ maxBytes: KEPT_SHARE * (models[0]?.trunk.kv.limitBytes ?? 0) })
    this.#batchers = new Map(models.map((model) => [model, new Batcher(components, model, prefixes)]))
    this.#models = models
    this.#init = init
  }

  /** Queries being answered now. */
  get active(): number {
    return this.#active
  }

  async *answer(request: QueryRequest): AsyncGenerator<QueryEvent> {
    const model = this.#models.find(({ id, manifest }) => manifest.name === request.model || id === request.model)
    if (model === undefined) {
      const known = this.#models.map(({ manifest }) => manifest.name).join(', ')
      throw new ModelMissingError(`model ${request.model} is not served by this node; it has: ${known === '' ? 'none' : known}`)
    }
    const signal = request.signal === undefined ? this.#stopping.signal : AbortSignal.any([request.signal, this.#stopping.signal])
    signal.throwIfAborted()
    await this.#completeness.check(model)
    await this.#enter(signal)
    try {
      const sampling = samplingOf(request, model)
      const tally = new Tally({
        wire: request.wire ?? this.#init.wire,
        combine: request.combine ?? this.#init.combine,
        seed: sampling.seed,
      })
      yield* generate(this.#batchers.get(model)!, model, { request, sampling, tally, signal })
    } finally {
      this.#leave()
    }
  }

  /** Aborts every query. */
  stop(): void {
    this.#stopping.abort(new BusyError('the node is stopping'))
  }

  async #enter(signal: AbortSignal): Promise<void> {
    if (this.#active < MAX_ACTIVE) {
      this.#active++
      return
    }
    if (this.#waiting.length >= MAX_WAITING)
      throw new BusyError(`${MAX_ACTIVE} queries are being answered and ${MAX_WAITING} wait: try again later`)
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const onAbort = (): void => {
      const place = this.#waiting.indexOf(resolve)
      // Not there: the place was just handed over, and the query itself will see the abort.
      if (place >= 0) this.#waiting.splice(place, 1)
      reject(signal.reason as Error)
    }
    this.#waiting.push(resolve)
    signal.addEventListener('abort', onAbort, { once: true })
    await promise
    signal.removeEventListener('abort', onAbort)
  }

  /** Hands the place to the one that waits longest. */
  #leave(): void {
    const next = this.#waiting.shift()
    if (next === undefined) this.#active--
    else next()
  }
}

function samplingOf(request: QueryRequest, model: DrivenModel): Sampling {
  const { seed, ...asked } = request.sampling
  return { ...SAMPLING_DEFAULTS, ...model.manifest.generation, ...asked, seed: seed ?? randomInt(2 ** 31) }
}
