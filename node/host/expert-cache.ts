import { rowBytes } from '../../protocols/wire/rows.ts'
import type { RowType } from '../../protocols/wire/rows.ts'
import type { ShardEntry } from '../model/manifest.ts'
import { repeat } from '../repeat.ts'
import { chooseCached } from '../router/cache-choice.ts'
import { shardsOf } from './holdings-service.ts'
import type { HeldModel, Hosting } from './hosting.ts'

export interface ExpertCacheComponents {
  readonly hosting: Hosting
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

export interface ExpertCacheInit {
  readonly budgetBytes: number
  readonly wire: RowType
}

const ROUND_MS = 5_000
/** Half-life of what a use counts. */
const HALF_LIFE_MS = 120_000
/** Of a call's frames, beside the rows: headers, pick and weight. */
const OVERHEAD_BYTES = 100
const SHARD_TIMEOUT_MS = 5 * 60_000

/** Keeps the shards that this node's own queries use most, fetched from peers, within a budget; what is cached is not announced. */
export class ExpertCache {
  readonly #components: ExpertCacheComponents
  readonly #init: ExpertCacheInit
  /** By model: decayed picks of each expert, [layers * experts]. */
  readonly #uses = new Map<string, Float64Array>()
  #stopping = new AbortController()

  constructor(components: ExpertCacheComponents, init: ExpertCacheInit) {
    this.#components = components
    this.#init = init
  }

  start(): void {
    this.#stopping = new AbortController()
    const onError = (error: Error): void => this.#components.log('cache.failed', { reason: error.message })
    repeat(() => this.round(), { intervalMs: ROUND_MS, signal: this.#stopping.signal, onError })
  }

  stop(): void {
    this.#stopping.abort(new Error('the node is stopping'))
  }

  /** A pass chose these experts of a layer. */
  used(id: string, layer: number, chosen: Int32Array): void {
    const model = this.#components.hosting.model(id)
    if (model === undefined) return
    const { layers, experts } = model.manifest.config
    let uses = this.#uses.get(id)
    if (uses === undefined) this.#uses.set(id, (uses = new Float64Array(layers * experts)))
    for (const expert of chosen) uses[layer * experts + expert]!++
  }

  get bytes(): number {
    const { hosting } = this.#components
    return hosting.models.flatMap(({ id }) => hosting.shards(id, 'cached')).reduce((sum, shard) => sum + shard.bytes, 0)
  }

  /** Ages the counts and takes up or gives up shards; one model after the other, as they share the budget. */
  async round(): Promise<void> {
    const { hosting, log } = this.#components
    let left = this.#init.budgetBytes
    for (const [id, uses] of this.#uses) {
      const model = hosting.model(id)!
      const shards = shardsOf(model).filter(({ cid }) => ['cached', null].includes(hosting.stateOf(id, cid)))
      const { fetch, drop } = chooseCached({
        shards: shards.map(({ cid, bytes, ...shard }) => ({
          cid,
          bytes,
          picksPerSecond: this.#rate(model, uses, shard),
          isCached: hosting.stateOf(id, cid) === 'cached',
        })),
        budgetBytes: left,
        bytesPerPick: 2 * rowBytes(this.#init.wire, 1, model.manifest.config.hiddenSize) + OVERHEAD_BYTES,
      })
      const find = (cid: string): ShardEntry => shards.find((shard) => shard.cid === cid)!
      for (const cid of drop) await hosting.release(id, find(cid))
      for (const cid of fetch) {
        const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(SHARD_TIMEOUT_MS)])
        await hosting.cache(id, find(cid), signal).catch((error: Error) => log('cache.failed', { cid, reason: error.message }))
      }
      left -= hosting.shards(id, 'cached').reduce((sum, shard) => sum + shard.bytes, 0)
      for (let i = 0; i < uses.length; i++) uses[i]! *= 2 ** (-ROUND_MS / HALF_LIFE_MS)
    }
  }

  #rate({ manifest }: HeldModel, uses: Float64Array, { layer, first, last }: Pick<ShardEntry, 'layer' | 'first' | 'last'>): number {
    let sum = 0
    for (let expert = first; expert <= last; expert++) sum += uses[layer * manifest.config.experts + expert]!
    // A steady rate r leaves r · half-life / ln 2 in a decayed count.
    return (sum * Math.LN2) / (HALF_LIFE_MS / 1000)
  }
}
