import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { createBlobStore } from '../../../../node/model/blob-store.ts'
import { openCheckpoint } from '../../../../node/model/checkpoint.ts'
import type { Checkpoint } from '../../../../node/model/checkpoint.ts'
import { codedBytes, CODECS } from '../../../../node/model/dtypes/index.ts'
import type { SourceType } from '../../../../node/model/dtypes/index.ts'
import type { ModelConfig } from '../../../../node/model/model-config.ts'
import { planBlobs } from '../../../../node/model/pack-plan.ts'
import { packCheckpoint } from '../../../../node/model/pack.ts'
import type { ModelPackage } from '../../../../node/model/package.ts'
import { readSafetensorsHeader } from '../../../../node/model/safetensors.ts'
import type { SourceTensor } from '../../../../node/model/source-tensor.ts'
import { TensorReader } from '../../../../node/model/tensor-reader.ts'
import { EMBER_CHECKPOINT, goldenCheckpoint } from '../../../helpers/checkpoint.ts'
import { ggufBytes } from '../../../helpers/gguf.ts'
import type { GgufValue, PlainGgufTensor } from '../../../helpers/gguf.ts'
import { feed, generateGreedily, openLocally } from '../../../helpers/local-generation.ts'
import { engineForTest } from '../../../helpers/packed-model.ts'
import { writeF32Tensors } from '../../../helpers/safetensors.ts'
import type { PlainTensor } from '../../../helpers/safetensors.ts'
import { temporaryDir } from '../../../helpers/temporary-dir.ts'

const goldenGguf = (name: string): string => fileURLToPath(new URL(`../../../golden/gguf/${name}.gguf`, import.meta.url))

async function packInto(dir: string, source: string, name = 'model'): Promise<ModelPackage> {
  return await packCheckpoint({ dir: source, store: createBlobStore({ dir }), quant: 'f32', tokenizer: 'optional', name })
}

/** What a GGUF file can't say, or says otherwise: gpt-oss's clamp is always 7, and llama3's rotary embedding would be a tensor of factors. */
const NOT_IN_FILE: Readonly<Record<string, Partial<ModelConfig>>> = {
  'random-gptoss': { expertActivation: { kind: 'clamped-swiglu', alpha: 1.702, limit: 7 } },
  'random-granitemoe': { rope: { theta: 10_000, dim: 8, interleaved: false, scaling: { kind: 'default' } } },
}
const CONVERTED = [
  'random-mixtral',
  'random-olmoe',
  'random-gptoss',
  'random-glm4moe',
  'random-granitemoe',
  'random-deepseek2',
  'random-deepseek3',
  'qwen2moe',
]

for (const name of CONVERTED) {
  test(`${name}: the GGUF file of gguf-py and the safetensors checkpoint make the same package, to the bit`, async (t) => {
    const store = await temporaryDir(t)
    // GGUF files have no dense layers among those of Qwen2-MoE, which the checkpoint of the other tests has.
    const original = await packInto(store, goldenCheckpoint(name === 'qwen2moe' ? 'gguf/qwen2moe-original' : name))
    const converted = await packInto(store, goldenGguf(name))
    assert.deepEqual(converted.manifest.blobs, original.manifest.blobs)
    assert.deepEqual(converted.manifest.config, { ...original.manifest.config, ...NOT_IN_FILE[name] })
    if (NOT_IN_FILE[name] === undefined) assert.equal(converted.id, original.id)
  })
}

/** Relative rms error that the types' own rounding leaves on normal random numbers, with some room. */
const ROUNDING: Partial<Record<SourceType, number>> = {
  F32: 0,
  F16: 1e-3,
  BF16: 4e-3,
  Q8_0: 0.01,
  Q5_0: 0.06,
  Q5_1: 0.05,
  Q4_0: 0.12,
  Q4_1: 0.1,
}

test('weights quantised by gguf-py are within the rounding of their types', async (t) => {
  const original = await openCheckpoint(goldenCheckpoint('random-qwen3moe'))
  const converted = await openCheckpoint(goldenGguf('random-qwen3moe-mixed'))
  assert.deepEqual(converted.config, original.config)
  const reader = new TensorReader()
  t.after(() => reader.close())
  const seen = new Map<string, number>()
  const exact = sourcesOf(original)
  for (const [i, source] of sourcesOf(converted).entries()) {
    const numbers = reader.readAll(exact[i]!)
    const error = rms(reader.readAll(source).map((n, at) => n - numbers[at]!)) / rms(numbers)
    assert.ok(error <= ROUNDING[source.dtype]!, `${source.name} in ${source.dtype}: ${error}`)
    seen.set(source.dtype, Math.max(error, seen.get(source.dtype) ?? 0))
  }
  t.diagnostic(`largest errors: ${JSON.stringify(Object.fromEntries(seen))}`)
  assert.deepEqual([...seen.keys()].sort(), ['BF16', 'F16', 'F32', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0'])
})

test('a quantised file gives the logits that transformers gives, which decodes it with gguf-py', async (t) => {
  const golden = JSON.parse(await readFile(new URL('../../../golden/gguf/logits.json', import.meta.url), 'utf8')) as {
    readonly file: string
    readonly ids: readonly number[]
    readonly rows: readonly number[]
    readonly logits: readonly (readonly number[])[]
  }
  const model = await openLocally(engineForTest(t), await packInto(await temporaryDir(t), goldenGguf(golden.file)))
  const { vocabSize } = model.trunk.config
  const { logits } = await feed(model, model.trunk.createCache(), golden.ids, 'all')
  const errors = golden.rows.map((row, i) => {
    const expected = Float32Array.from(golden.logits[i]!)
    return rms(logits.slice(row * vocabSize, (row + 1) * vocabSize).map((n, at) => n - expected[at]!)) / rms(expected)
  })
  t.diagnostic(`relative rms errors ${errors.map((error) => error.toExponential(1)).join(', ')}`)
  assert.ok(Math.max(...errors) <= 1e-3)
})

/** Every weight's place, in the order of the blobs. */
function sourcesOf(checkpoint: Checkpoint): SourceTensor[] {
  const parts = planBlobs(checkpoint, { kind: 'f32', block: 0 }).flatMap(({ spec }) => spec.items.flat())
  return parts.flatMap((part) => ('sources' in part ? part.sources : 'source' in part ? [part.source] : []))
}

function rms(numbers: Float32Array): number {
  return Math.sqrt(numbers.reduce((sum, n) => sum + n * n, 0))
}

const GGML = { F32: 0, BF16: 30, Q4_K: 12, Q5_K: 13, Q6_K: 14 } as const

interface Sizes {
  readonly layers: number
  readonly experts: number
  readonly hidden: number
  readonly expert: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly context: number
}

function qwenMetadata(sizes: Sizes): Record<string, GgufValue> {
  return {
    'general.architecture': ['text', 'qwen3moe'],
    'qwen3moe.block_count': ['u32', sizes.layers],
    'qwen3moe.context_length': ['u64', sizes.context],
    'qwen3moe.embedding_length': ['u32', sizes.hidden],
    'qwen3moe.attention.head_count': ['u32', sizes.heads],
    'qwen3moe.attention.head_count_kv': ['u32', sizes.kvHeads],
    'qwen3moe.attention.key_length': ['u32', sizes.headDim],
    'qwen3moe.attention.layer_norm_rms_epsilon': ['f32', 1e-6],
    'qwen3moe.rope.freq_base': ['f32', 10_000],
    'qwen3moe.expert_count': ['u32', sizes.experts],
    'qwen3moe.expert_used_count': ['u32', 2],
    'qwen3moe.expert_feed_forward_length': ['u32', sizes.expert],
  }
}

/** GGUF names and Hugging Face names of a Qwen3-MoE model with tied embeddings; several for the experts of a layer in one tensor. */
function qwenNames({ layers, experts }: Sizes): Map<string, string[]> {
  const names = new Map([
    ['token_embd.weight', ['model.embed_tokens.weight']],
    ['output_norm.weight', ['model.norm.weight']],
  ])
  for (let layer = 0; layer < layers; layer++) {
    const add = (gguf: string, hf: string): unknown => names.set(`blk.${layer}.${gguf}.weight`, [`model.layers.${layer}.${hf}.weight`])
    add('attn_norm', 'input_layernorm')
    add('ffn_norm', 'post_attention_layernorm')
    add('ffn_gate_inp', 'mlp.gate')
    add('attn_output', 'self_attn.o_proj')
    for (const part of ['q', 'k', 'v']) add(`attn_${part}`, `self_attn.${part}_proj`)
    for (const part of ['q', 'k']) add(`attn_${part}_norm`, `self_attn.${part}_norm`)
    for (const part of ['gate', 'up', 'down']) {
      const each = Array.from({ length: experts }, (_, e) => `model.layers.${layer}.mlp.experts.${e}.${part}_proj.weight`)
      names.set(`blk.${layer}.ffn_${part}_exps.weight`, each)
    }
  }
  return names
}

const weightsOf = ({ manifest }: ModelPackage): unknown[] => manifest.blobs.filter(({ role }) => role !== 'tokenizer')

test('Ember as two split BF16 files makes the same blobs and answers the same tokens', async (t) => {
  const sizes: Sizes = { layers: 6, experts: 16, hidden: 256, expert: 192, heads: 8, kvHeads: 4, headDim: 32, context: 1024 }
  const { path, tensors } = await readSafetensorsHeader(join(EMBER_CHECKPOINT, 'model.safetensors'))
  const file = await readFile(path)
  const all: PlainGgufTensor[] = [...qwenNames(sizes)].map(([name, sources]) => {
    const parts = sources.map((source) => tensors.get(source)!)
    const { shape } = parts[0]!
    const data = Buffer.concat(parts.map(({ begin, end }) => file.subarray(begin, end)))
    if (shape.length > 1) return { name, shape: parts.length === 1 ? shape : [parts.length, ...shape], type: GGML.BF16, data }
    // The converter writes vectors in F32: bf16 is its upper half.
    const wide = new Uint8Array(data.byteLength * 2)
    for (let i = 0; i < data.byteLength; i++) wide[Math.floor(i / 2) * 4 + 2 + (i % 2)] = data[i]!
    return { name, shape, type: GGML.F32, data: wide }
  })
  const dir = await temporaryDir(t)
  const metadata: Record<string, GgufValue> = {
    ...qwenMetadata(sizes),
    'tokenizer.ggml.eos_token_id': ['u32', 4095],
    'tokenizer.ggml.eot_token_id': ['u32', 4093],
  }
  await writeFile(join(dir, 'ember-00001-of-00002.gguf'), ggufBytes({ metadata, tensors: all.slice(0, 20) }))
  await writeFile(join(dir, 'ember-00002-of-00002.gguf'), ggufBytes({ metadata: {}, tensors: all.slice(20) }))
  const store = await temporaryDir(t)
  const original = await packInto(store, EMBER_CHECKPOINT, 'original')
  const converted = await packInto(store, dir, 'converted')
  assert.deepEqual(weightsOf(converted), weightsOf(original))
  assert.deepEqual(converted.manifest.config, original.manifest.config)
  const golden = JSON.parse(await readFile(new URL('../../../golden/ember-golden.json', import.meta.url), 'utf8')) as {
    cases: { ids: number[]; greedy: number[] }[]
  }
  const { ids, greedy } = golden.cases[0]!
  const local = await openLocally(engineForTest(t), converted)
  assert.deepEqual(await generateGreedily(local, ids, 12), greedy.slice(0, 12))
})

for (const type of ['Q4_K', 'Q5_K', 'Q6_K'] as const) {
  test(`${type} weights make the package of the numbers that they stand for`, async (t) => {
    const sizes: Sizes = { layers: 1, experts: 4, hidden: 256, expert: 256, heads: 4, kvHeads: 2, headDim: 64, context: 128 }
    const shapeOf = (name: string): number[] => {
      if (name.includes('embed')) return [512, 256]
      if (/[qk]_norm/.test(name)) return [64]
      if (name.includes('norm')) return [256]
      if (name.includes('mlp.gate.')) return [4, 256]
      return /[kv]_proj/.test(name) ? [128, 256] : [256, 256]
    }
    let state = 7
    const random = (): number => (state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0) >>> 24
    const { bytes: blockBytes } = CODECS[type]
    const decoded: Record<string, PlainTensor> = {}
    const tensors: PlainGgufTensor[] = []
    for (const [name, sources] of qwenNames(sizes)) {
      const shape = shapeOf(sources[0]!)
      const count = shape.reduce((product, n) => product * n, 1)
      const numbers = new Float32Array(count * sources.length)
      let data: Uint8Array
      if (shape.length === 1 || name.includes('gate_inp')) {
        for (let i = 0; i < count; i++) numbers[i] = random() / 256
        data = new Uint8Array(numbers.buffer)
      } else {
        data = Uint8Array.from({ length: codedBytes(type, numbers.length) }, random)
        // Factors are small f16 numbers; they lie first, or last in Q6_K.
        const factors = type === 'Q6_K' ? [208] : [0, 2]
        for (let at = 0; at < data.length; at += blockBytes) for (const factor of factors) data.set([random(), 0x08], at + factor)
        assert.ok(CODECS[type].decode(data as Uint8Array<ArrayBuffer>, 0, data.length / blockBytes, numbers, 0))
      }
      const isCoded = data.byteLength !== numbers.byteLength
      tensors.push({ name, shape: sources.length === 1 ? shape : [sources.length, ...shape], type: isCoded ? GGML[type] : GGML.F32, data })
      for (const [i, source] of sources.entries()) decoded[source] = { shape, data: numbers.slice(i * count, (i + 1) * count) }
    }
    const dir = await temporaryDir(t)
    await writeFile(join(dir, 'model.gguf'), ggufBytes({ metadata: qwenMetadata(sizes), tensors }))
    const plain = await temporaryDir(t)
    await writeFile(join(plain, 'model.safetensors'), writeF32Tensors(decoded))
    const config = {
      architectures: ['Qwen3MoeForCausalLM'],
      hidden_size: 256,
      num_hidden_layers: 1,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      head_dim: 64,
      vocab_size: 512,
      max_position_embeddings: 128,
      rms_norm_eps: 1e-6,
      num_experts: 4,
      num_experts_per_tok: 2,
      moe_intermediate_size: 256,
      norm_topk_prob: true,
      rope_theta: 10_000,
      tie_word_embeddings: true,
    }
    await writeFile(join(plain, 'config.json'), JSON.stringify(config))
    const store = await temporaryDir(t)
    const converted = await packInto(store, join(dir, 'model.gguf'))
    assert.equal(converted.id, (await packInto(store, plain)).id)
  })
}
