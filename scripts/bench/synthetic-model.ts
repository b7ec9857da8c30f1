import { olmoe } from '../../node/model/architectures/olmoe.ts'
import type { BlobStore } from '../../node/model/blob-store.ts'
import { canonicalJson } from '../../node/model/canonical-json.ts'
import { HfConfig } from '../../node/model/hf-config.ts'
import { embeddingLayout, expertLayout, headLayout, layerLayout, shardRanges } from '../../node/model/layout.ts'
import type { Layout } from '../../node/model/layout.ts'
import { findModelId, openModel, registerModel } from '../../node/model/library.ts'
import type { BlobEntry, Manifest, Quant, TensorEntry } from '../../node/model/manifest.ts'
import type { ModelPackage } from '../../node/model/package.ts'
import { parseManifest } from '../../node/model/validate-manifest.ts'
import { configOf, OLMOE_1B_7B, tokenizerOf } from '../synthetic-checkpoint.ts'
import { KeyStream } from './key-stream.ts'

export interface SyntheticModelInit {
  readonly seed: number
  readonly layers: number
  /** Weights of a block of q4: 32 (5 bits per weight), 64 (4.5) or 128 (4.25). */
  readonly block?: number
}

const DEFAULT_BLOCK = 128
/** Weights come out with a deviation of about 0.02, as trained ones have: codes are even over 16 steps, whose deviation is 4.6. */
const SCALE = 0.0044
const ROUTER_DEVIATION = 0.03
const EMBEDDING_DEVIATION = 1
const CHUNK_BYTES = 1 << 20

/**
 * Opens a q4 package in the shape of OLMoE-1B-7B (4 GB with 16 layers) with random weights, every expert's different; writes it into the
 * store first when it is not there. Same seed, layers and block, same bytes.
 */
export async function ensureSyntheticModel(store: BlobStore, init: SyntheticModelInit): Promise<ModelPackage> {
  const { seed, layers, block = DEFAULT_BLOCK } = init
  const quant: Quant = { kind: 'q4', block }
  const name = `synthetic-olmoe-${layers}-${seed}-b${block}`
  const known = await findModelId(store, name)
  if (known !== undefined) return await openModel(store, known)
  const config = olmoe.readConfig(new HfConfig(configOf({ ...OLMOE_1B_7B, layers }), name), [])
  const write = async (part: string, layouts: readonly Layout[]): Promise<{ cid: string; bytes: number }> =>
    await store.write(randomBlob(`${seed}/${part}`, layouts))
  const blobs: BlobEntry[] = []
  const embedding = embeddingLayout(config, quant)
  blobs.push({ role: 'embedding', ...(await write('embedding', [embedding])), tensors: embedding.tensors })
  const expert = expertLayout(config, quant)
  for (let layer = 0; layer < layers; layer++) {
    const trunk = layerLayout(config, quant, layer)
    blobs.push({ role: 'layer', layer, ...(await write(`layer ${layer}`, [trunk])), tensors: trunk.tensors })
    for (const { first, last } of shardRanges(config.experts, expert.bytes)) {
      const layouts = Array.from({ length: last - first + 1 }, () => expert)
      blobs.push({ role: 'experts', layer, first, last, ...(await write(`shard ${layer}/${first}`, layouts)) })
    }
  }
  const head = headLayout(config, quant)
  blobs.push({ role: 'head', ...(await write('head', [head])), tensors: head.tensors })
  const tokenizer = Buffer.from(JSON.stringify(tokenizerOf(config.vocabSize)))
  blobs.push({ role: 'tokenizer', name: 'tokenizer.json', ...(await store.write(single(tokenizer))) })
  const manifest: Manifest = {
    format: 'skein-model/1',
    name,
    config,
    quant,
    expertLayout: { stride: expert.bytes, tensors: expert.tensors },
    blobs,
    generation: {},
  }
  const { cid } = await store.write(single(Buffer.from(canonicalJson(parseManifest(manifest, name)))))
  await registerModel(store, name, cid)
  return await openModel(store, cid)
}

/** The tensors of the layouts one after the other, out of the key stream that belongs to `name`. */
async function* randomBlob(name: string, layouts: readonly Layout[]): AsyncGenerator<Uint8Array> {
  const stream = new KeyStream(name)
  for (const layout of layouts) {
    let at = 0
    for (const tensor of layout.tensors) {
      if (tensor.offset > at) yield new Uint8Array(tensor.offset - at)
      for (let left = tensor.bytes; left > 0; left -= CHUNK_BYTES) yield content(tensor, stream, Math.min(left, CHUNK_BYTES))
      at = tensor.offset + tensor.bytes
    }
    if (layout.bytes > at) yield new Uint8Array(layout.bytes - at)
  }
}

function content({ name, type }: TensorEntry, stream: KeyStream, bytes: number): Uint8Array {
  if (type === 'u8') return stream.next(bytes)
  const numbers = type === 'f16' ? new Float16Array(bytes / 2) : new Float32Array(bytes / 4)
  if (name.endsWith('_norm')) numbers.fill(1)
  else if (name.endsWith('.scales')) stream.fill(numbers, (draw) => SCALE * (0.75 + draw / 2))
  else {
    const width = Math.sqrt(12) * (name === 'router' ? ROUTER_DEVIATION : EMBEDDING_DEVIATION)
    stream.fill(numbers, (draw) => (draw - 0.5) * width)
  }
  return new Uint8Array(numbers.buffer)
}

async function* single(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
