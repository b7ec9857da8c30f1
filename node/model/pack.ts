import { basename, resolve } from 'node:path'
import { ModelError } from '../errors.ts'
import { COMMON_TENSORS, layerTensorName } from './architectures/adapter.ts'
import type { BlobStore } from './blob-store.ts'
import { canonicalJson } from './canonical-json.ts'
import { openCheckpoint } from './checkpoint.ts'
import type { Checkpoint } from './checkpoint.ts'
import { encodeLinear, encodeRowMajor, encodeTransposed } from './encode-tensor.ts'
import { BLOCKS, embeddingLayout, expertLayout, headLayout, layerLayout, shardRanges } from './layout.ts'
import type { Layout } from './layout.ts'
import { openModel, registerModel } from './library.ts'
import type { BlobEntry, Manifest, Quant, QuantKind } from './manifest.ts'
import type { ModelPackage } from './package.ts'
import type { SourceTensor } from './safetensors.ts'
import { MODEL_NAME, parseManifest } from './validate-manifest.ts'

export const DEFAULTS = Object.freeze({ block: 64 })

/** Bytes of blobs written so far and in all. */
export interface PackProgress {
  readonly bytes: number
  readonly totalBytes: number
}

export interface PackOptions {
  /** Folder of a Hugging Face checkpoint. */
  readonly dir: string
  readonly store: BlobStore
  readonly quant: QuantKind
  /** Weights per scale of q4 and q8; defaults to {@link DEFAULTS}. */
  readonly block?: number
  /** Friendly name; by default the folder's name and the kind of quantisation. */
  readonly name?: string
  /** `optional` also packs a checkpoint without tokenizer.json; such a model takes token ids only. Required by default. */
  readonly tokenizer?: 'required' | 'optional'
  readonly onProgress?: (progress: PackProgress) => void
  readonly signal?: AbortSignal
}

/** One blob to be written: its entry without hash and size, and its parts in order. */
interface BlobPlan {
  readonly entry: (cid: string) => BlobEntry
  readonly bytes: number
  readonly chunks: () => AsyncIterable<Uint8Array>
}

/** The content of one tensor of a layout. */
type Part = () => AsyncIterable<Uint8Array>

/**
 * Packs a checkpoint into blobs and a manifest; the model becomes visible in the store in the last step.
 * Memory: one tensor at a time. Throws `ModelError`, or `signal.reason`; what was written until then stays invisible.
 */
export async function packCheckpoint(options: PackOptions): Promise<ModelPackage> {
  const quant = readQuant(options)
  const name = options.name ?? defaultName(options.dir, quant.kind)
  if (!MODEL_NAME.test(name)) {
    throw new ModelError(`${JSON.stringify(name)} can't be a model's name: use at most 64 lower case letters, digits, ".", "_" and "-"`)
  }
  const checkpoint = await openCheckpoint(options.dir)
  try {
    if (options.tokenizer !== 'optional' && !checkpoint.tokenizer.some((file) => file.name === 'tokenizer.json')) {
      throw new ModelError(`${options.dir} has no tokenizer.json: get it from the model's page, or convert the tokenizer to that format`)
    }
    const expert = expertLayout(checkpoint.config, quant)
    const blobs = await writeBlobs(options, planBlobs(checkpoint, quant, expert))
    const manifest: Manifest = {
      format: 'skein-model/1',
      name,
      config: checkpoint.config,
      quant,
      expertLayout: { stride: expert.bytes, tensors: expert.tensors },
      blobs,
      generation: checkpoint.generation,
    }
    const content = Buffer.from(canonicalJson(parseManifest(manifest, `manifest of ${name}`)))
    const { cid } = await options.store.write(single(content), signalOf(options))
    await registerModel(options.store, name, cid)
    return await openModel(options.store, cid)
  } finally {
    await checkpoint.tensors.close()
  }
}

function readQuant(options: PackOptions): Quant {
  if (options.quant === 'f32' || options.quant === 'f16') return { kind: options.quant, block: 0 }
  const block = options.block ?? DEFAULTS.block
  if (!BLOCKS.includes(block)) throw new ModelError(`block ${block} is not possible: use one of ${BLOCKS.toReversed().join(', ')}`)
  return { kind: options.quant, block }
}

function defaultName(dir: string, kind: QuantKind): string {
  const slug = basename(resolve(dir))
    .toLowerCase()
    .replaceAll(/[^a-z0-9._-]+/g, '-')
    .replace(/^[^a-z0-9]+/, '')
  return `${slug.slice(0, 59)}-${kind}`
}

async function writeBlobs(options: PackOptions, plans: readonly BlobPlan[]): Promise<BlobEntry[]> {
  const totalBytes = plans.reduce((sum, plan) => sum + plan.bytes, 0)
  let bytes = 0
  const counting = async function* (chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks) {
      yield chunk
      bytes += chunk.byteLength
      options.onProgress?.({ bytes, totalBytes })
    }
  }
  const entries: BlobEntry[] = []
  for (const plan of plans) {
    const { cid } = await options.store.write(counting(plan.chunks()), signalOf(options))
    entries.push(plan.entry(cid))
  }
  return entries
}

/** Looks up every tensor first, so that an incomplete checkpoint is refused before anything is written. */
function planBlobs(checkpoint: Checkpoint, quant: Quant, expert: Layout): BlobPlan[] {
  const { config } = checkpoint
  const plans = [planEmbedding(checkpoint, quant)]
  const ranges = shardRanges(config.experts, expert.bytes)
  for (let layer = 0; layer < config.layers; layer++) {
    plans.push(planLayer(checkpoint, quant, layer))
    for (const { first, last } of ranges) plans.push(planShard(checkpoint, quant, expert, layer, first, last))
  }
  plans.push(planHead(checkpoint, quant))
  for (const { name, content } of checkpoint.tokenizer) {
    const bytes = content.byteLength
    plans.push({ bytes, entry: (cid) => ({ role: 'tokenizer', name, cid, bytes }), chunks: () => single(content) })
  }
  return plans
}

function planEmbedding({ config, tensors }: Checkpoint, quant: Quant): BlobPlan {
  const layout = embeddingLayout(config, quant)
  const source = tensors.get(COMMON_TENSORS.embed, [config.vocabSize, config.hiddenSize])
  return {
    bytes: layout.bytes,
    entry: (cid) => ({ role: 'embedding', cid, ...layout }),
    chunks: () => laidOut(layout, [() => encodeRowMajor(source, quant.kind === 'f32' ? 'f32' : 'f16')]),
  }
}

function planHead({ config, tensors, tiedEmbeddings }: Checkpoint, quant: Quant): BlobPlan {
  const layout = headLayout(config, quant)
  const norm = tensors.get(COMMON_TENSORS.finalNorm, [config.hiddenSize])
  const weight = tensors.get(tiedEmbeddings ? COMMON_TENSORS.embed : COMMON_TENSORS.lmHead, [config.vocabSize, config.hiddenSize])
  return {
    bytes: layout.bytes,
    entry: (cid) => ({ role: 'head', cid, ...layout }),
    chunks: () => laidOut(layout, [() => encodeRowMajor(norm, 'f32'), ...linearParts(weight, quant)]),
  }
}

function planLayer({ adapter, config, tensors }: Checkpoint, quant: Quant, layer: number): BlobPlan {
  const layout = layerLayout(config, quant)
  const { hiddenSize } = config
  const queries = config.heads * config.headDim
  const keys = config.kvHeads * config.headDim
  const linear = (name: string, outputs: number, inputs: number): Part[] =>
    linearParts(tensors.get(layerTensorName(layer, name), [outputs, inputs]), quant)
  const norm = (name: string): Part[] => {
    const shape = layout.tensors.find((tensor) => tensor.name === name)?.shape
    if (shape === undefined) return []
    const source = tensors.get(layerTensorName(layer, name), shape)
    return [() => encodeRowMajor(source, 'f32')]
  }
  const router = tensors.get(adapter.router(layer), [config.experts, hiddenSize])
  const parts = [
    ...norm('attn_norm'),
    ...linear('q', queries, hiddenSize),
    ...linear('k', keys, hiddenSize),
    ...linear('v', keys, hiddenSize),
    ...linear('o', hiddenSize, queries),
    ...norm('q_norm'),
    ...norm('k_norm'),
    ...norm('ffn_norm'),
    () => encodeTransposed(router, 'f32'),
  ]
  return { bytes: layout.bytes, entry: (cid) => ({ role: 'layer', layer, cid, ...layout }), chunks: () => laidOut(layout, parts) }
}

function planShard(checkpoint: Checkpoint, quant: Quant, layout: Layout, layer: number, first: number, last: number): BlobPlan {
  const { adapter, tensors } = checkpoint
  const { hiddenSize, expertSize } = checkpoint.config
  const experts = Array.from({ length: last - first + 1 }, (_, i) => {
    const names = adapter.expert(layer, first + i)
    return [
      ...linearParts(tensors.get(names.gate, [expertSize, hiddenSize]), quant),
      ...linearParts(tensors.get(names.up, [expertSize, hiddenSize]), quant),
      ...linearParts(tensors.get(names.down, [hiddenSize, expertSize]), quant),
    ]
  })
  const bytes = experts.length * layout.bytes
  return {
    bytes,
    entry: (cid) => ({ role: 'experts', layer, first, last, cid, bytes }),
    chunks: async function* () {
      for (const parts of experts) yield* laidOut(layout, parts)
    },
  }
}

function linearParts(source: SourceTensor, quant: Quant): Part[] {
  // Encoders start when drained, and codes are drained before their scales; both must come from one encoding.
  let encoded: AsyncIterable<Uint8Array>[] | undefined
  const count = quant.kind === 'f32' || quant.kind === 'f16' ? 1 : 2
  return Array.from({ length: count }, (_, i) => () => {
    encoded ??= encodeLinear(source, quant)
    return encoded[i]!
  })
}

/** The parts at the offsets of their layout, the gaps filled with zeros. */
async function* laidOut(layout: Layout, parts: readonly Part[]): AsyncGenerator<Uint8Array> {
  let at = 0
  for (const [i, tensor] of layout.tensors.entries()) {
    if (tensor.offset > at) yield new Uint8Array(tensor.offset - at)
    at = tensor.offset
    for await (const chunk of parts[i]!()) {
      yield chunk
      at += chunk.byteLength
    }
    if (at !== tensor.offset + tensor.bytes)
      throw new TypeError(`tensor ${tensor.name} took ${at - tensor.offset} bytes instead of ${tensor.bytes}`)
  }
  if (layout.bytes > at) yield new Uint8Array(layout.bytes - at)
}

async function* single(content: Uint8Array): AsyncGenerator<Uint8Array> {
  yield content
}

function signalOf({ signal }: PackOptions): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal }
}
