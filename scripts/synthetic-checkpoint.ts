/**
 * Writes a checkpoint of random bf16 weights in the shape of OLMoE-1B-7B: `node scripts/synthetic-checkpoint.ts <folder> [--layers 16]`.
 * It takes the time of writing the files; the weights mean nothing, but every expert has its own. Also used by benches and tests.
 */
import { mkdir, open, rm, writeFile } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'

/** Sizes of the model; by default those of OLMoE-1B-7B, 13.8 GB. */
export interface SyntheticShape {
  readonly layers: number
  readonly experts: number
  readonly expertsPerToken: number
  readonly hiddenSize: number
  readonly expertSize: number
  readonly heads: number
  readonly vocabSize: number
  readonly maxContext: number
}

export const OLMOE_1B_7B: SyntheticShape = Object.freeze({
  layers: 16,
  experts: 64,
  expertsPerToken: 8,
  hiddenSize: 2048,
  expertSize: 1024,
  heads: 16,
  vocabSize: 50_304,
  maxContext: 4096,
})

export interface SyntheticInit extends Partial<SyntheticShape> {
  /** Created; files of a checkpoint in it are replaced. */
  readonly dir: string
  readonly seed?: number
  /** Layers per safetensors file. */
  readonly layersPerFile?: number
}

/** Numbers that all weights are cut from, each from another place. */
const POOL_NUMBERS = 2 ** 24
/** As transformers initialises weights. */
const DEVIATION = 0.02

/** Writes config.json, the weights with their index, and a tokenizer. Returns the bytes of weights. */
export async function writeSyntheticCheckpoint(init: SyntheticInit): Promise<number> {
  const shape: SyntheticShape = { ...OLMOE_1B_7B, ...init }
  await mkdir(init.dir, { recursive: true })
  await writeFile(join(init.dir, 'config.json'), JSON.stringify(configOf(shape), null, 2))
  await writeFile(join(init.dir, 'tokenizer.json'), JSON.stringify(tokenizerOf(shape.vocabSize)))
  const random = xorshift(init.seed ?? 1)
  const pool = bf16Pool(random)
  const groups = tensorGroups(shape, init.layersPerFile ?? 2)
  const weightMap: Record<string, string> = {}
  let total = 0
  for (const [i, tensors] of groups.entries()) {
    const name = `model-${number(i + 1)}-of-${number(groups.length)}.safetensors`
    total += await writeTensors(join(init.dir, name), tensors, pool, random)
    for (const tensor of tensors) weightMap[tensor.name] = name
  }
  await rm(join(init.dir, 'model.safetensors'), { force: true })
  const index = { metadata: { total_size: total }, weight_map: weightMap }
  await writeFile(join(init.dir, 'model.safetensors.index.json'), JSON.stringify(index))
  return total
}

interface Tensor {
  readonly name: string
  readonly shape: readonly number[]
}

/** config.json of the shape. */
export function configOf(shape: SyntheticShape): Record<string, unknown> {
  return {
    architectures: ['OlmoeForCausalLM'],
    model_type: 'olmoe',
    hidden_size: shape.hiddenSize,
    intermediate_size: shape.expertSize,
    num_hidden_layers: shape.layers,
    num_attention_heads: shape.heads,
    num_key_value_heads: shape.heads,
    num_experts: shape.experts,
    num_experts_per_tok: shape.expertsPerToken,
    norm_topk_prob: false,
    vocab_size: shape.vocabSize,
    max_position_embeddings: shape.maxContext,
    rms_norm_eps: 1e-5,
    rope_theta: 10_000,
    hidden_act: 'silu',
    tie_word_embeddings: false,
    eos_token_id: 0,
  }
}

/** Writes every byte of a text as one token; the rest of the vocabulary is made up and only comes out of the model. */
export function tokenizerOf(vocabSize: number): Record<string, unknown> {
  const tokens = ['<end>', ...byteAlphabet()]
  const vocab = Object.fromEntries(Array.from({ length: vocabSize }, (_, id) => [tokens[id] ?? `w${id}`, id]))
  const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false }
  return {
    version: '1.0',
    added_tokens: [{ id: 0, content: '<end>', single_word: false, lstrip: false, rstrip: false, normalized: false, special: true }],
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: null,
    decoder: byteLevel,
    model: { type: 'BPE', vocab, merges: [], unk_token: null, continuing_subword_prefix: '', end_of_word_suffix: '', fuse_unk: false },
  }
}

/** The characters that stand for the bytes in byte-level vocabularies: printable ones for themselves, the rest from 256 on. */
function byteAlphabet(): string[] {
  let next = 256
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte > 32 && byte < 127) || (byte > 160 && byte !== 173)
    return String.fromCharCode(printable ? byte : next++)
  })
}

function tensorGroups(shape: SyntheticShape, layersPerFile: number): Tensor[][] {
  const { hiddenSize, expertSize, vocabSize } = shape
  const square = [hiddenSize, hiddenSize]
  const layer = (l: number): Tensor[] => {
    const prefix = `model.layers.${l}`
    return [
      { name: `${prefix}.input_layernorm.weight`, shape: [hiddenSize] },
      { name: `${prefix}.post_attention_layernorm.weight`, shape: [hiddenSize] },
      ...['q', 'k', 'v', 'o'].map((name) => ({ name: `${prefix}.self_attn.${name}_proj.weight`, shape: square })),
      ...['q', 'k'].map((name) => ({ name: `${prefix}.self_attn.${name}_norm.weight`, shape: [hiddenSize] })),
      { name: `${prefix}.mlp.gate.weight`, shape: [shape.experts, hiddenSize] },
      ...Array.from({ length: shape.experts }, (_, e) => [
        { name: `${prefix}.mlp.experts.${e}.gate_proj.weight`, shape: [expertSize, hiddenSize] },
        { name: `${prefix}.mlp.experts.${e}.up_proj.weight`, shape: [expertSize, hiddenSize] },
        { name: `${prefix}.mlp.experts.${e}.down_proj.weight`, shape: [hiddenSize, expertSize] },
      ]).flat(),
    ]
  }
  const groups: Tensor[][] = [
    [
      { name: 'model.embed_tokens.weight', shape: [vocabSize, hiddenSize] },
      { name: 'lm_head.weight', shape: [vocabSize, hiddenSize] },
      { name: 'model.norm.weight', shape: [hiddenSize] },
    ],
  ]
  for (let first = 0; first < shape.layers; first += layersPerFile) {
    const count = Math.min(layersPerFile, shape.layers - first)
    groups.push(Array.from({ length: count }, (_, i) => layer(first + i)).flat())
  }
  return groups
}

async function writeTensors(path: string, tensors: readonly Tensor[], pool: Uint16Array, random: () => number): Promise<number> {
  let end = 0
  const header: Record<string, unknown> = {}
  for (const { name, shape } of tensors) {
    const begin = end
    end += 2 * shape.reduce((product, n) => product * n, 1)
    header[name] = { dtype: 'BF16', shape, data_offsets: [begin, end] }
  }
  const json = Buffer.from(JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.byteLength))
  const file = await open(path, 'w')
  try {
    await file.writev([length, json])
    for (const { shape } of tensors) await writeNumbers(file, shape, pool, random)
  } finally {
    await file.close()
  }
  return end
}

/** Norms are one, as a trained model's roughly are; everything else is a piece of the pool. */
async function writeNumbers(file: FileHandle, shape: readonly number[], pool: Uint16Array, random: () => number): Promise<void> {
  const count = shape.reduce((product, n) => product * n, 1)
  if (shape.length === 1) {
    await file.writeFile(new Uint16Array(count).fill(0x3f80))
    return
  }
  let at = random() % POOL_NUMBERS
  for (let left = count; left > 0;) {
    const piece = pool.subarray(at, Math.min(POOL_NUMBERS, at + left))
    await file.writeFile(piece)
    left -= piece.length
    at = 0
  }
}

/** About normal: the sum of four uniform numbers. */
function bf16Pool(random: () => number): Uint16Array {
  const words = new Uint32Array(1)
  const number32 = new Float32Array(words.buffer)
  const scale = (DEVIATION * Math.sqrt(3)) / 2 ** 32
  return Uint16Array.from({ length: POOL_NUMBERS }, () => {
    number32[0] = (random() + random() - random() - random()) * scale
    return words[0]! >>> 16
  })
}

/** Marsaglia's xorshift32. */
function xorshift(seed: number): () => number {
  let state = seed >>> 0 || 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state
  }
}

function number(value: number): string {
  return String(value).padStart(5, '0')
}

if (import.meta.main) {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { layers: { type: 'string', default: String(OLMOE_1B_7B.layers) }, seed: { type: 'string', default: '1' } },
  })
  const [dir] = positionals
  const layers = Number(values.layers)
  if (dir === undefined || !Number.isSafeInteger(layers) || layers < 1) {
    console.error('usage: node scripts/synthetic-checkpoint.ts <folder> [--layers 16] [--seed 1]')
    process.exit(2)
  }
  const startedAt = performance.now()
  const bytes = await writeSyntheticCheckpoint({ dir, layers, seed: Number(values.seed) })
  console.log(`${(bytes / 1e9).toFixed(2)} GB of weights in ${dir}, ${((performance.now() - startedAt) / 1000).toFixed(0)} s`)
}
