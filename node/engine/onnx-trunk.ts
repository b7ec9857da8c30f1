import { InvalidRequestError } from '../errors.ts'
import { MeshError } from '../../protocols/wire/errors.ts'
import type { ModelConfig } from '../model/model-config.ts'
import { trunkQuant } from '../model/manifest.ts'
import type { ModelPackage } from '../model/package.ts'
import { blobWeights, findBlob, loading, openBlob } from './blob-file.ts'
import type { BlobFile } from './blob-file.ts'
import type { Provider } from './device.ts'
import type { KvCache, KvUsage, Segment, Trunk, TrunkPass } from './engine.ts'
import type { EngineWorker } from './engine-worker.ts'
import { headGraph } from './graph/head-graph.ts'
import { afterAttentionGraph, beforeAttentionGraph, sharedExpertGraph } from './graph/layer-graph.ts'
import { KvBlocks } from './kv-blocks.ts'
import { KvPool, kvMemory } from './kv-pool.ts'
import { attentionShape, BLOCK_TOKENS, kvTokenBytes } from './kv-shape.ts'
import { OnnxKvCache } from './onnx-kv-cache.ts'
import type { KvCacheContext } from './onnx-kv-cache.ts'
import { OnnxTrunkPass } from './onnx-trunk-pass.ts'
import type { PassPart, TrunkContext, TrunkKv } from './onnx-trunk-pass.ts'
import { MAX_PICK_ROWS } from './picks.ts'
import type { SharedBlocks } from './shared-blocks.ts'
import { TrunkSessions } from './trunk-sessions.ts'
import type { GraphSource, SessionThreads } from './worker-messages.ts'

/** Graphs with at least this much of weights are computed by all threads of the engine. */
const SHARED_FROM_BYTES = 4 * 2 ** 20

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
