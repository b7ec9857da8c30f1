import { MeshError } from '../../protocols/wire/errors.ts'
import { isDense } from '../model/model-config.ts'
import type { ModelConfig } from '../model/model-config.ts'
import type { Advance, DoneLayer, Experts, Routing, TrunkPass } from './engine.ts'
import type { EngineWorker } from './engine-worker.ts'
import type { KvBudget } from './kv-blocks.ts'
import { kvTokenBytes } from './kv-shape.ts'
import type { KvType } from './kv-shape.ts'
import type { OnnxKvCache } from './onnx-kv-cache.ts'
import { OnnxExperts } from './onnx-experts.ts'
import { passBytes, passMemory } from './pass-memory.ts'
import type { PassMemory } from './pass-memory.ts'
import type { SharedBlock, SharedBlocks } from './shared-blocks.ts'
import type { TrunkSessions } from './trunk-sessions.ts'
import type { LastRows, PassStart, SegmentStart } from './worker-messages.ts'

/** What trunk, caches and passes share. */
export interface TrunkContext {
  readonly id: number
  readonly config: ModelConfig
  readonly worker: EngineWorker
  readonly blocks: SharedBlocks
  readonly kv: TrunkKv
  /** What this thread has borrowed of the worker's sessions, for passes of one row; null where it can't or should not. */
  readonly borrowed: TrunkSessions | null
  /** What this thread reads of one row at most before it serves others: a layer's weights, and keys and values. */
  readonly callerRunBytes: number
  readonly layerBytes: number
  isClosed: boolean
}

export interface TrunkKv {
  readonly type: KvType
  readonly budget: KvBudget
}

export interface PassPart {
  readonly cache: OnnxKvCache
  readonly tokens: readonly number[]
}

export interface PlacedPart extends PassPart {
  /** Blocks of all its positions. */
  readonly table: Int32Array
}

type PassState = 'open' | 'busy' | 'failed' | 'committed' | 'closed'

/** Bytes of one token's keys and values in one layer. */
function layerTokenBytes(config: ModelConfig, type: KvType): number {
  return kvTokenBytes(config, type) / config.layers
}

/** Which thread takes a pass through the layers, decided when it begins. */
type Walker = 'worker' | 'caller'

/** A pass of a trunk: in this thread its state and what its caller reads and writes; the layers go through the worker or {@link TrunkSessions}. */
export class OnnxTrunkPass implements TrunkPass {
  readonly rows: number
  readonly moe: Float32Array
  readonly #context: TrunkContext
  readonly #id: number
  readonly #parts: readonly PlacedPart[]
  readonly #block: SharedBlock
  readonly #memory: PassMemory
  #state: PassState = 'open'
  #walker: Walker | null = null
  #nextLayer = 0
  #underWay: Promise<unknown> = Promise.resolve()

  constructor(context: TrunkContext, id: number, parts: readonly PlacedPart[]) {
    this.#context = context
    this.#id = id
    this.#parts = parts
    this.rows = parts.reduce((sum, part) => sum + part.tokens.length, 0)
    this.#block = context.blocks.take(passBytes(context.config, this.rows))
    this.#memory = passMemory(this.#block.memory, context.config, this.rows)
    this.moe = this.#memory.moe
    this.moe.fill(0)
  }

  get nextLayer(): number {
    return this.#nextLayer
  }

  async attend(layer: number): Promise<Routing | null> {
    this.#mustBeNext(layer)
    const { config, worker, id } = this.#context
    this.#walker ??= this.#isForCaller() ? 'caller' : 'worker'
    const start = layer === 0 ? this.#start() : null
    if (this.#walker === 'caller' && worker.isOpen) await this.#exclusive(() => this.#attendHere(layer, start))
    else await this.#exclusive(() => worker.call({ op: 'attend', trunk: id, pass: this.#id, layer, start: this.#referred(start) }))
    this.#nextLayer++
    return isDense(config, layer) ? null : this.#memory
  }

  async advance(experts: Experts): Promise<Advance> {
    const { config, worker, id } = this.#context
    const layer = this.#nextLayer
    // The caller has nobody else to ask, so that it need not be quick to ask: other queries have its thread.
    this.#walker ??= 'worker'
    const set = experts instanceof OnnxExperts && this.#walker === 'worker' ? experts.within(worker) : null
    if (set === null) return { done: [], routing: await this.attend(layer) }
    this.#mustBeNext(layer)
    const start = layer === 0 ? this.#referred(this.#start()) : null
    await this.#exclusive(() => worker.call({ op: 'advance', trunk: id, pass: this.#id, layer, experts: set, start }))
    const done: DoneLayer[] = []
    for (; this.#nextLayer < config.layers; this.#nextLayer++) {
      if (isDense(config, this.#nextLayer)) continue
      const last = this.#doneLayer(this.#nextLayer)
      if (last === null) {
        this.#nextLayer++
        return { done, routing: this.#memory }
      }
      done.push(last)
    }
    return { done, routing: null }
  }

  async logits(rows: readonly number[]): Promise<Float32Array> {
    this.#mustBeThrough()
    if (rows.length === 0 || rows.some((row) => !Number.isInteger(row) || row < 0 || row >= this.rows)) {
      throw new RangeError(`logits of rows [${rows.join(', ')}] of a pass of ${this.rows}`)
    }
    const { worker, id } = this.#context
    if (this.#walker === 'worker') return await this.#exclusive(() => worker.call({ op: 'logits', trunk: id, pass: this.#id, rows }))
    // The head reads many times the weights of a layer.
    return await this.#exclusive(() => worker.call({ op: 'head', trunk: id, last: this.#lastRows(rows) }))
  }

  commit(): void {
    this.#mustBeThrough()
    if (this.#state !== 'open') throw new MeshError(`the pass is ${this.#state} and can't be committed`)
    this.#state = 'committed'
    for (const { cache, tokens } of this.#parts) cache.extend(tokens.length)
  }

  close(): void {
    if (this.#state === 'closed') return
    const wasBusy = this.#state === 'busy'
    this.#state = 'closed'
    const { worker, id, borrowed, blocks } = this.#context
    const leave = (): void => {
      for (const { cache } of this.#parts) cache.leavePass()
    }
    if (this.#walker === 'caller') borrowed!.endPass(this.#id)
    else worker.post({ op: 'end-pass', trunk: id, pass: this.#id })
    if (!wasBusy || this.#walker === 'caller') {
      leave()
      blocks.give(this.#block)
      return
    }
    // The call under way may still write to the pass's memory, which is left to the garbage collector, and to the sequences' blocks.
    worker.forget(this.#block)
    this.#underWay.then(leave, leave)
  }

  /** Whether a layer takes so little time that waking another thread and being woken by it would be felt. */
  #isForCaller(): boolean {
    const { config, kv, borrowed, layerBytes, callerRunBytes } = this.#context
    if (borrowed === null || this.rows !== 1) return false
    return layerBytes + (this.#parts[0]!.cache.length + 1) * layerTokenBytes(config, kv.type) <= callerRunBytes
  }

  #start(): readonly SegmentStart[] {
    if (this.#parts.some((part) => part.cache.closed)) throw new MeshError('a cache of the pass is closed')
    return this.#parts.map(({ cache, tokens, table }) => ({ past: cache.length, tokens, table }))
  }

  #referred(segments: readonly SegmentStart[] | null): PassStart | null {
    return segments === null ? null : { ...this.#context.worker.refer(this.#block), segments }
  }

  #lastRows(rows: readonly number[]): LastRows {
    if (this.#context.isClosed) throw new MeshError('the trunk is closed')
    return this.#context.borrowed!.lastRows(this.#id, rows)
  }

  #attendHere(layer: number, start: readonly SegmentStart[] | null): Promise<void> {
    const borrowed = this.#context.borrowed!
    if (this.#context.isClosed) throw new MeshError('the trunk is closed')
    if (start !== null) borrowed.begin(this.#id, start, this.#block.memory)
    borrowed.attend(this.#id, layer)
    // The caller's calls of experts go out first.
    if (borrowed.isUnfinished(this.#id)) setImmediate(() => borrowed.finishLayer(this.#id))
    return Promise.resolve()
  }

  /** Null when the layer's experts were not added by the pass itself. */
  #doneLayer(layer: number): DoneLayer | null {
    const { chosen, expertUs, experts } = this.#memory
    const computeUs = expertUs[layer]!
    return computeUs === 0 ? null : { layer, experts: chosen.subarray(layer * experts.length, (layer + 1) * experts.length), computeUs }
  }

  #mustBeNext(layer: number): void {
    const { layers } = this.#context.config
    if (layer === this.#nextLayer && layer < layers) return
    throw new RangeError(`layer ${layer} is out of turn: the pass has done ${this.#nextLayer} of ${layers}`)
  }

  #mustBeThrough(): void {
    if (this.#nextLayer !== this.#context.config.layers) {
      throw new RangeError(`the pass has done ${this.#nextLayer} of ${this.#context.config.layers} layers`)
    }
  }

  async #exclusive<T>(call: () => Promise<T>): Promise<T> {
    const before = this.#state
    if (before !== 'open' && before !== 'committed') throw new MeshError(`the pass is ${before}`)
    this.#state = 'busy'
    try {
      const called = call()
      this.#underWay = called
      const result = await called
      this.#leave(before)
      return result
    } catch (error) {
      this.#leave('failed')
      throw error
    }
  }

  /** A pass that was closed while a call was under way stays closed. */
  #leave(state: PassState): void {
    if (this.#state === 'busy') this.#state = state
  }
}
