import { InvalidRequestError } from '../errors.ts'
import { MeshError } from '../../protocols/wire/errors.ts'
import { isDense } from '../model/model-config.ts'
import type { ModelConfig } from '../model/model-config.ts'
import { trunkQuant } from '../model/manifest.ts'
import type { ModelPackage } from '../model/package.ts'
import { blobWeights, findBlob, loading, openBlob } from './blob-file.ts'
import type { BlobFile } from './blob-file.ts'
import type { Provider } from './device.ts'
import type { Advance, DoneLayer, Experts, KvCache, KvUsage, Routing, Segment, Trunk, TrunkPass } from './engine.ts'
import type { EngineWorker } from './engine-worker.ts'
import { headGraph } from './graph/head-graph.ts'
import { afterAttentionGraph, beforeAttentionGraph, sharedExpertGraph } from './graph/layer-graph.ts'
import { KvBlocks } from './kv-blocks.ts'
import type { KvBudget } from './kv-blocks.ts'
import { KvPool, kvMemory } from './kv-pool.ts'
import { attentionShape, BLOCK_TOKENS, kvTokenBytes } from './kv-shape.ts'
import type { KvType } from './kv-shape.ts'
import { OnnxKvCache } from './onnx-kv-cache.ts'
import type { KvCacheContext } from './onnx-kv-cache.ts'
import { OnnxExperts } from './onnx-experts.ts'
import { passBytes, passMemory, type PassMemory } from './pass-memory.ts'
import { MAX_PICK_ROWS } from './picks.ts'
import type { SharedBlock, SharedBlocks } from './shared-blocks.ts'
import { TrunkSessions } from './trunk-sessions.ts'
import type { GraphSource, LastRows, PassStart, SegmentStart, SessionThreads } from './worker-messages.ts'

/** Graphs with at least this much of weights are computed by all threads of the engine. */
const SHARED_FROM_BYTES = 4 * 2 ** 20

/** What trunk, caches and passes share. */
interface TrunkContext {
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

interface TrunkKv {
  readonly type: KvType
  readonly budget: KvBudget
}

/** A trunk whose engine can take back what other threads than the worker have of it. */
export interface LentTrunk extends Trunk {
  /** Hears once that everything borrowed was given back. */
  onRelease: (() => void) | null
  /** At once, and before the worker ends: nothing can be asked of the trunk any more. Idempotent. */
  release(): void
}

/** Loads the trunk of a model into a worker. Throws `ModelError` when a blob can't be used, `MeshError` when the worker ends meanwhile. */
export async function openOnnxTrunk(init: {
  id: number
  model: ModelPackage
  worker: EngineWorker
  blocks: SharedBlocks
  kv: TrunkKv
  threads: SessionThreads
  provider: Provider
  /** Layers that read at most so much of weights, keys and values may be computed in the calling thread. */
  callerRunBytes: number
}): Promise<LentTrunk> {
  const { id, model, worker, kv } = init
  const manifest = { ...model.manifest, quant: trunkQuant(model.manifest.quant) }
  const { config } = manifest
  const embedding = findBlob(manifest, 'embedding', () => true, 'embedding blob')
  const embeddingFile = await openBlob(model, embedding)
  const tensor = blobWeights(embeddingFile, manifest, embedding.tensors).entry(
    'embed',
    ['f32', 'f16'],
    [config.vocabSize, config.hiddenSize],
  )
  const kvBlocks = new KvBlocks(kvTokenBytes(config, kv.type) * BLOCK_TOKENS, kv.budget)
  const layout = { type: kv.type, threads: init.threads === 'shared' ? 'shared' : 1 } as const
  const memory = Array.from({ length: config.layers }, (_, layer) => kvMemory(attentionShape(config, layer), kv.type, kvBlocks.most))
  const pools = memory.map((each, layer) => new KvPool(attentionShape(config, layer), kv.type, each))
  const source = { path: embeddingFile.path, tensor }
  let layerBytes = 0
  let borrowed: TrunkSessions | null = null
  await worker.call({ op: 'open-trunk', trunk: id, config, embedding: source, kv: layout })
  try {
    for (let layer = 0; layer < config.layers; layer++) {
      const blob = findBlob(manifest, 'layer', (b) => b.layer === layer, `blob of layer ${layer}`)
      const file = await openBlob(model, blob)
      const weights = blobWeights(file, manifest, blob.tensors)
      const how = sessionOf(file, init)
      const before = { model: beforeAttentionGraph(config, weights), ...how }
      const after = { model: afterAttentionGraph(config, layer, weights), ...how }
      const graph = sharedExpertGraph(config, layer, weights)
      const shared = graph === null ? null : { model: graph, ...how }
      await loading(file, worker.call({ op: 'open-layer', trunk: id, layer, before, after, shared, kv: memory[layer]! }))
      layerBytes = Math.max(layerBytes, file.bytes)
    }
    const head = findBlob(manifest, 'head', () => true, 'head blob')
    const file = await openBlob(model, head)
    const graph = headGraph(config, blobWeights(file, manifest, head.tensors))
    await loading(file, worker.call({ op: 'open-head', trunk: id, source: { model: graph, ...sessionOf(file, init) } }))
    const pointers = layerBytes <= init.callerRunBytes ? await worker.call({ op: 'lend-trunk', trunk: id }) : null
    if (!worker.isOpen) throw new MeshError('the engine is closed')
    if (pointers !== null) {
      borrowed = new TrunkSessions(config, source, layout)
      borrowed.borrowLayers(pointers, memory)
    }
  } catch (error) {
    borrowed?.close()
    worker.post({ op: 'close-trunk', trunk: id })
    throw error
  }
  const { blocks, callerRunBytes } = init
  return new OnnxTrunk({ id, config, worker, blocks, kv, borrowed, callerRunBytes, layerBytes, isClosed: false }, kvBlocks, pools)
}

/** Small weights are read in less time than it takes to wake another thread. */
function sessionOf(
  file: BlobFile,
  { threads, provider }: { readonly threads: SessionThreads; readonly provider: Provider },
): Omit<GraphSource, 'model'> {
  return { folder: file.folder, provider, threads: file.bytes < SHARED_FROM_BYTES ? 1 : threads }
}

class OnnxTrunk implements LentTrunk {
  readonly config: ModelConfig
  onRelease: (() => void) | null = null
  readonly #context: TrunkContext
  readonly #caches: KvCacheContext
  #nextPass = 1

  constructor(context: TrunkContext, blocks: KvBlocks, pools: readonly KvPool[]) {
    const { config } = context
    this.config = config
    this.#context = context
    this.#caches = {
      maxTokens: config.maxContext,
      blocks,
      open: new Set(),
      copyBlock: (from, to) => {
        for (const pool of pools) {
          pool.grow(Math.max(from, to) + 1)
          pool.copy(from, to)
        }
      },
    }
  }

  get kv(): KvUsage {
    const { type, budget } = this.#context.kv
    const { blocks } = this.#caches
    const tokenBytes = blocks.blockBytes / BLOCK_TOKENS
    return { type, tokenBytes, mostTokens: blocks.most * BLOCK_TOKENS, usedBytes: budget.usedBytes, limitBytes: budget.limitBytes }
  }

  createCache(expected = 0): KvCache {
    return new OnnxKvCache(this.#caches, expected)
  }

  beginPass(segments: readonly Segment[]): TrunkPass {
    if (this.#context.isClosed) throw new MeshError('the trunk is closed')
    const parts = segments.map((segment) => ({ cache: ownCache(segment.cache, this.#caches), tokens: segment.tokens }))
    checkSegments(this.config, parts)
    const tables: Int32Array[] = []
    try {
      for (const { cache, tokens } of parts) tables.push(cache.enterPass(tokens.length))
    } catch (error) {
      for (const { cache } of parts.slice(0, tables.length)) cache.leavePass()
      throw error
    }
    return new OnnxTrunkPass(
      this.#context,
      this.#nextPass++,
      parts.map((part, i) => ({ ...part, table: tables[i]! })),
    )
  }

  release(): void {
    if (this.#context.isClosed) return
    this.#context.isClosed = true
    this.#context.borrowed?.close()
    this.onRelease?.()
  }

  async close(): Promise<void> {
    if (this.#context.isClosed) return
    this.release()
    await this.#context.worker.call({ op: 'close-trunk', trunk: this.#context.id }).catch(() => {})
  }
}

/** Bytes of one token's keys and values in one layer. */
function layerTokenBytes(config: ModelConfig, type: KvType): number {
  return kvTokenBytes(config, type) / config.layers
}

interface PassPart {
  readonly cache: OnnxKvCache
  readonly tokens: readonly number[]
}

interface PlacedPart extends PassPart {
  /** Blocks of all its positions. */
  readonly table: Int32Array
}

function ownCache(cache: KvCache, context: KvCacheContext): OnnxKvCache {
  if (!(cache instanceof OnnxKvCache) || cache.context !== context) throw new TypeError('the cache belongs to another trunk')
  return cache
}

function checkSegments(config: ModelConfig, parts: readonly PassPart[]): void {
  let rows = 0
  for (const { cache, tokens } of parts) {
    if (cache.closed) throw new MeshError('the cache is closed')
    if (cache.inPass) throw new MeshError('the cache is already part of a pass; close that one first')
    if (tokens.length === 0) throw new InvalidRequestError('there are no tokens to run; send at least one')
    const length = cache.length + tokens.length
    if (length > config.maxContext) {
      const message = `this model's context is ${config.maxContext} tokens and the query needs ${length}; shorten it`
      throw new InvalidRequestError(message, null, 'context_length_exceeded')
    }
    for (const token of tokens) {
      if (!Number.isInteger(token) || token < 0 || token >= config.vocabSize) {
        throw new InvalidRequestError(`token ${token} is not in the model's vocabulary of ${config.vocabSize}`)
      }
    }
    rows += tokens.length
  }
  if (rows === 0 || rows > MAX_PICK_ROWS) throw new RangeError(`a pass takes 1 to ${MAX_PICK_ROWS} rows, not ${rows}`)
  if (new Set(parts.map((part) => part.cache)).size !== parts.length) throw new MeshError('a cache can be part of a pass only once')
}

type PassState = 'open' | 'busy' | 'failed' | 'committed' | 'closed'

/** Which thread takes a pass through the layers, decided when it begins. */
type Walker = 'worker' | 'caller'

class OnnxTrunkPass implements TrunkPass {
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
