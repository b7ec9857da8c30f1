import assert from 'node:assert/strict'
import { readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { createBlobStore } from '../../../node/model/blob-store.ts'
import { listModels, openModel } from '../../../node/model/library.ts'
import type { Quant, QuantKind, TensorEntry } from '../../../node/model/manifest.ts'
import { packCheckpoint } from '../../../node/model/pack.ts'
import type { PackProgress } from '../../../node/model/pack.ts'
import type { ModelPackage } from '../../../node/model/package.ts'
import { changedCheckpoint, EMBER_CHECKPOINT, goldenCheckpoint } from '../../helpers/checkpoint.ts'
import { dequantise } from '../../helpers/dequantise.ts'
import { readSafetensors, writeF32Tensors } from '../../helpers/safetensors.ts'
import type { PlainTensor } from '../../helpers/safetensors.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

const LAYER_NAMES: Record<string, string> = {
  attn_norm: 'input_layernorm',
  ffn_norm: 'post_attention_layernorm',
  q: 'self_attn.q_proj',
  k: 'self_attn.k_proj',
  v: 'self_attn.v_proj',
  o: 'self_attn.o_proj',
  q_norm: 'self_attn.q_norm',
  k_norm: 'self_attn.k_norm',
}
const MIXTRAL_EXPERT: Record<string, string> = { gate: 'w1', up: 'w3', down: 'w2' }

/** The weight that an entry without its `.codes` or `.scales` comes from. */
function sourceName(architecture: string, place: string, name: string): string {
  const isMixtral = architecture === 'MixtralForCausalLM'
  if (place === 'embedding') return 'model.embed_tokens.weight'
  if (place === 'head') return name === 'final_norm' ? 'model.norm.weight' : 'lm_head.weight'
  const [layer, expert] = place.split('/')
  const block = `model.layers.${layer}.${isMixtral ? 'block_sparse_moe' : 'mlp'}`
  if (expert !== undefined) return `${block}.experts.${expert}.${isMixtral ? MIXTRAL_EXPERT[name] : `${name}_proj`}.weight`
  return name === 'router' ? `${block}.gate.weight` : `model.layers.${layer}.${LAYER_NAMES[name]}.weight`
}

/** Checks tensors that lie from `base` on in a blob against the checkpoint; returns how many weights were compared. */
function compare(
  blob: Buffer,
  base: number,
  entries: readonly TensorEntry[],
  quant: Quant,
  source: (name: string) => PlainTensor,
): string[] {
  const bytesOf = (entry: TensorEntry): ArrayBuffer =>
    Uint8Array.from(blob.subarray(base + entry.offset, base + entry.offset + entry.bytes)).buffer
  const names: string[] = []
  for (const entry of entries) {
    assert.equal(entry.offset % 4096, 0)
    const [name, part] = entry.name.split('.') as [string, string?]
    if (part === 'scales') continue
    names.push(name)
    const { shape, data } = source(name)
    if (part === 'codes') {
      const [rows, inputs] = shape as [number, number]
      const scales = new Float32Array(bytesOf(entries.find((other) => other.name === `${name}.scales`)!))
      const bits = quant.kind === 'q4' ? 4 : 8
      const block = (entry.shape[2]! * 8) / bits
      const weights = dequantise(new Uint8Array(bytesOf(entry)), scales, { rows, inputs, bits, block })
      for (let i = 0; i < data.length; i++) {
        const scale = Math.abs(scales[Math.floor(i / inputs) * entry.shape[1]! + Math.floor((i % inputs) / block)]!)
        assert.ok(Math.abs(weights[i]! - data[i]!) <= scale * (bits === 4 ? 4 : 0.5) * (1 + 1e-5), `${name}[${i}]`)
      }
      continue
    }
    const numbers = entry.type === 'f32' ? new Float32Array(bytesOf(entry)) : Float32Array.from(new Float16Array(bytesOf(entry)))
    const expected = entry.type === 'f32' ? data : Float32Array.from(new Float16Array(data))
    const isTransposed = shape.length === 2 && name !== 'embed'
    assert.deepEqual(entry.shape, isTransposed ? shape.toReversed() : shape)
    const [rows, columns] = isTransposed ? (shape as [number, number]) : [1, data.length]
    for (let r = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++) assert.equal(numbers[c * rows + r], expected[r * columns + c], `${name}[${r}, ${c}]`)
    }
  }
  return names
}

async function compareAll(model: ModelPackage, dir: string): Promise<string[]> {
  const { config, quant, blobs, expertLayout } = model.manifest
  const tensors = readSafetensors(join(dir, 'model.safetensors'))
  const seen: string[] = []
  const check = (blob: Buffer, base: number, place: string, entries: readonly TensorEntry[]): void => {
    const find = (name: string): PlainTensor => {
      const found = tensors.get(sourceName(config.architecture, place, name))
      assert.ok(found, `${place} ${name}`)
      return found
    }
    for (const name of compare(blob, base, entries, quant, find)) seen.push(sourceName(config.architecture, place, name))
  }
  for (const entry of blobs) {
    const blob = await readFile(await model.blobPath(entry.cid))
    assert.equal(blob.byteLength, entry.bytes)
    if (entry.role === 'experts') {
      for (let e = entry.first; e <= entry.last; e++) {
        check(blob, (e - entry.first) * expertLayout.stride, `${entry.layer}/${e}`, expertLayout.tensors)
      }
    } else if (entry.role !== 'tokenizer') check(blob, 0, entry.role === 'layer' ? String(entry.layer) : entry.role, entry.tensors)
  }
  assert.deepEqual(seen.sort(), [...tensors.keys()].sort(), 'every tensor of the checkpoint is in the package once')
  return seen
}

for (const name of ['random-qwen3moe', 'random-olmoe', 'random-mixtral']) {
  for (const quant of ['f32', 'f16', 'q8', 'q4'] satisfies QuantKind[]) {
    test(`${name} as ${quant}: every weight is in the package, within the bound of its storage`, async (t) => {
      const store = createBlobStore({ dir: await temporaryDir(t) })
      const dir = goldenCheckpoint(name)
      const model = await packCheckpoint({ dir, store, quant, tokenizer: 'optional' })
      assert.equal(model.manifest.name, `${name}-${quant}`)
      assert.ok((await compareAll(model, dir)).length > 60)
      assert.ok(model.manifest.blobs.filter((blob) => blob.role === 'experts' && blob.layer === 0).length >= 4)
      const opened = await openModel(createBlobStore({ dir: store.dir }), `${name}-${quant}`)
      assert.deepEqual({ id: opened.id, manifest: opened.manifest }, { id: model.id, manifest: model.manifest })
    })
  }
}

test('reads the configuration of each architecture', async (t) => {
  const store = createBlobStore({ dir: await temporaryDir(t) })
  const config = async (name: string) =>
    (await packCheckpoint({ dir: goldenCheckpoint(name), store, quant: 'f32', tokenizer: 'optional' })).manifest.config
  const attention = { kind: 'grouped', heads: 4, kvHeads: 2, headDim: 16, qkNorm: 'none', clipQkv: null, bias: 'none', sinks: false }
  const router = { scoring: 'softmax', bias: 'none', groups: null, normalise: true, scale: 1 }
  const rope = { theta: 1e6, dim: 16, interleaved: false, scaling: { kind: 'default' } }
  const common = {
    hiddenSize: 64,
    layers: 2,
    vocabSize: 256,
    maxContext: 128,
    normEpsilon: 1e-5,
    sliding: null,
    dense: null,
    shared: null,
    experts: 8,
    expertsPerToken: 2,
    expertSize: 32,
    expertActivation: { kind: 'swiglu' },
    expertBias: false,
    router,
    scales: { embedding: 1, residual: 1, logits: 1 },
    eosTokenIds: [1],
  }
  assert.deepEqual(await config('random-qwen3moe'), {
    ...common,
    architecture: 'Qwen3MoeForCausalLM',
    normEpsilon: 1e-6,
    attention: { ...attention, headDim: 24, qkNorm: 'head', scale: 1 / Math.sqrt(24) },
    rope: { ...rope, dim: 24 },
  })
  assert.deepEqual(await config('random-olmoe'), {
    ...common,
    architecture: 'OlmoeForCausalLM',
    attention: { ...attention, kvHeads: 4, qkNorm: 'full', scale: 0.25 },
    rope: { ...rope, theta: 1e4 },
    expertsPerToken: 3,
    router: { ...router, normalise: false },
  })
  assert.deepEqual(await config('random-mixtral'), {
    ...common,
    architecture: 'MixtralForCausalLM',
    attention: { ...attention, scale: 0.25 },
    rope,
  })
})

test('packing twice gives the same id; tied embeddings become head and embedding; generation defaults and end tokens are kept', async (t) => {
  const store = createBlobStore({ dir: await temporaryDir(t) })
  const seen: PackProgress[] = []
  const model = await packCheckpoint({ dir: EMBER_CHECKPOINT, store, quant: 'q8', onProgress: (progress) => seen.push(progress) })
  assert.deepEqual(seen.at(-1), { bytes: seen[0]!.totalBytes, totalBytes: seen[0]!.totalBytes })
  assert.equal((await packCheckpoint({ dir: EMBER_CHECKPOINT, store, quant: 'q8' })).id, model.id)
  assert.deepEqual(model.manifest.config.eosTokenIds, [4095, 4093])
  assert.deepEqual(model.manifest.generation, { temperature: 0.7, topK: 40, topP: 0.95 })
  const listed = await listModels(store)
  assert.deepEqual(
    listed.map(({ name, id }) => ({ name, id })),
    [{ name: 'ember-q8', id: model.id }],
  )
  assert.ok(Math.abs(listed[0]!.createdAt - Date.now() / 1000) < 60)
})

test('an interrupted packing leaves no model and no unfinished file', async (t) => {
  const store = createBlobStore({ dir: await temporaryDir(t) })
  const abort = new AbortController()
  const packing = packCheckpoint({
    dir: goldenCheckpoint('random-olmoe'),
    store,
    quant: 'f32',
    tokenizer: 'optional',
    signal: abort.signal,
    onProgress: ({ bytes, totalBytes }) => {
      if (bytes > totalBytes / 2) abort.abort(new Error('interrupted'))
    },
  })
  await assert.rejects(packing, { message: 'interrupted' })
  assert.deepEqual(await listModels(store), [])
  assert.deepEqual(await readdir(join(store.dir, 'tmp')), [])
  await assert.rejects(openModel(store, 'random-olmoe-f32'), { name: 'ModelMissingError', message: /it has: none\. Pack one/ })
})

const REFUSED: Record<string, { from?: string; fields: Record<string, unknown>; message: RegExp }> = {
  'an unknown architecture': {
    fields: { architectures: ['LlamaForCausalLM'] },
    message:
      /"LlamaForCausalLM"\] is not supported; known: Qwen3MoeForCausalLM, OlmoeForCausalLM, MixtralForCausalLM, .*, Glm4MoeForCausalLM$/,
  },
  'no architecture': { fields: { architectures: undefined }, message: /\(none\) is not supported/ },
  'an unknown rotary embedding': {
    fields: { rope_scaling: { rope_type: 'longrope', factor: 4 } },
    message: /rope_scaling .*longrope.* is not supported: known kinds of rotary embedding: default, linear, dynamic, yarn, llama3/,
  },
  'a rotary embedding with an option that is not used': {
    fields: { rope_scaling: { type: 'dynamic', alpha: 1000 } },
    message: /rope_scaling .* is not supported: rotary embedding of kind dynamic does not use alpha/,
  },
  'a rotary embedding without its factor': {
    fields: { rope_parameters: { rope_type: 'linear' } },
    message: /rope_parameters\.factor is missing; expected a number above 0/,
  },
  'a rotation of part of a head': { fields: { partial_rotary_factor: 0.5 }, message: /partial_rotary_factor 0.5 is not supported/ },
  'dense layers that are not there': {
    fields: { mlp_only_layers: [0] },
    message: /tensor model\.layers\.0\.mlp\.gate_proj\.weight is missing/,
  },
  'a malformed list of dense layers': { fields: { mlp_only_layers: 'all' }, message: /mlp_only_layers "all" is not supported/ },
  'dense layers only': {
    fields: { mlp_only_layers: [0, 1] },
    message: /num_hidden_layers 2 is not supported: no layer would have experts/,
  },
  'attention biases that are not there': {
    fields: { attention_bias: true },
    message: /tensor model\.layers\.0\.self_attn\.q_proj\.bias is missing/,
  },
  'an option of another architecture': {
    from: 'random-olmoe',
    fields: { sliding_window: 64 },
    message: /sliding_window 64 is not supported: this architecture has no such option here/,
  },
  'a factor of another architecture': { fields: { routed_scaling_factor: 2.5 }, message: /routed_scaling_factor 2.5 is not supported/ },
  'another activation': { fields: { hidden_act: 'gelu' }, message: /hidden_act "gelu" is not supported/ },
  'quantised weights': {
    fields: { quantization_config: { quant_method: 'gptq' } },
    message: /quantization_config .*gptq.* only fp8 and mxfp4 are read/,
  },
  'a missing size': { fields: { hidden_size: undefined }, message: /hidden_size is missing; expected a whole number/ },
  'a size beyond all limits': { fields: { vocab_size: 1e12 }, message: /vocab_size is 1000000000000; expected a whole number from 1 to/ },
  'a size that is text': { fields: { num_hidden_layers: '2' }, message: /num_hidden_layers is "2"/ },
  'heads that do not divide': { fields: { num_key_value_heads: 3 }, message: /num_key_value_heads 3 is not supported/ },
  'more experts per token than experts': {
    fields: { num_experts_per_tok: 9 },
    message: /num_experts_per_tok is 9; expected a whole number from 1 to 8/,
  },
  'an end token outside the vocabulary': { fields: { eos_token_id: 256 }, message: /eos_token_id 256.* outside the vocabulary of 256/ },
  'a malformed end token': { fields: { eos_token_id: 'x' }, message: /eos_token_id is malformed/ },
  'shapes of another model': {
    fields: { moe_intermediate_size: 48 },
    message:
      /experts\.0\.gate_proj\.weight has shape \[32, 64\] and the configuration \(moe_intermediate_size, hidden_size\) asks for \[48, 64\]/,
  },
  'more layers than there are': {
    fields: { num_hidden_layers: 3 },
    message: /tensor model\.layers\.2\.input_layernorm\.weight is missing/,
  },
  'fewer layers than there are': {
    fields: { num_hidden_layers: 1 },
    message: /tensor model\.layers\.1\.\S+ belongs to a layer beyond the 1 of num_hidden_layers/,
  },
}

for (const [what, { from, fields, message }] of Object.entries(REFUSED)) {
  test(`refuses a checkpoint with ${what}, before anything is written`, async (t) => {
    const dir = await changedCheckpoint(t, goldenCheckpoint(from ?? 'random-qwen3moe'), fields)
    const storeDir = join(await temporaryDir(t), 'blobs')
    const packing = packCheckpoint({ dir, store: createBlobStore({ dir: storeDir }), quant: 'f32', tokenizer: 'optional' })
    await assert.rejects(packing, { name: 'ModelError', message })
    await assert.rejects(readdir(storeDir), { code: 'ENOENT' })
  })
}

test('leaves out a layer after the last that predicts a token further ahead', async (t) => {
  const dir = await changedCheckpoint(t, goldenCheckpoint('random-olmoe'), {})
  const store = createBlobStore({ dir: await temporaryDir(t) })
  const pack = () => packCheckpoint({ dir, store, quant: 'f32', name: 'ahead', tokenizer: 'optional' })
  const { id } = await pack()
  const path = join(dir, 'model.safetensors')
  const tensor = { shape: [2], data: Float32Array.of(1, 2) }
  const ahead = Object.fromEntries(['eh_proj', 'enorm', 'mlp.gate'].map((name) => [`model.layers.2.${name}.weight`, tensor]))
  await writeFile(path, writeF32Tensors({ ...Object.fromEntries(readSafetensors(path)), ...ahead }))
  assert.equal((await pack()).id, id)
})

test('reads a sliding window that is on, off, or as long as the context, and the newer form of rope_theta', async (t) => {
  const store = createBlobStore({ dir: await temporaryDir(t) })
  const windows = [
    { fields: { sliding_window: 64 }, sliding: null },
    { fields: { sliding_window: 128, use_sliding_window: true }, sliding: null },
    { fields: { sliding_window: 64, use_sliding_window: true }, sliding: { window: 64, layers: [0, 1] } },
  ]
  for (const { fields, sliding } of windows) {
    const dir = await changedCheckpoint(t, goldenCheckpoint('random-qwen3moe'), fields)
    assert.deepEqual((await packCheckpoint({ dir, store, quant: 'q4', tokenizer: 'optional' })).manifest.config.sliding, sliding)
  }
  const newer = { rope_theta: undefined, rope_parameters: { rope_type: 'default', rope_theta: 5000 } }
  const dir = await changedCheckpoint(t, goldenCheckpoint('random-olmoe'), newer)
  assert.equal((await packCheckpoint({ dir, store, quant: 'q4', tokenizer: 'optional' })).manifest.config.rope.theta, 5000)
})

test('refuses a folder without checkpoint, without tokenizer, with truncated weights, with weights that are not finite', async (t) => {
  const store = createBlobStore({ dir: await temporaryDir(t) })
  const pack = (dir: string) => packCheckpoint({ dir, store, quant: 'q4', tokenizer: 'optional' })
  await assert.rejects(pack('/nowhere/at/all'), { name: 'ModelError', message: /is no directory/ })
  await assert.rejects(pack(store.dir), { name: 'ModelError', message: /config\.json is missing/ })
  await assert.rejects(packCheckpoint({ dir: goldenCheckpoint('random-olmoe'), store, quant: 'q4' }), {
    name: 'ModelError',
    message: /has no tokenizer\.json/,
  })
  const dir = await changedCheckpoint(t, goldenCheckpoint('random-qwen3moe'), {})
  const weights = join(dir, 'model.safetensors')
  const bytes = await readFile(weights)
  // The file ends with the last tensor's last number.
  bytes.writeFloatLE(Number.NaN, bytes.byteLength - 4)
  await writeFile(weights, bytes)
  await assert.rejects(pack(dir), { name: 'ModelError', message: /has weights that are not finite/ })
  await truncate(weights, 400_000)
  await assert.rejects(pack(dir), { name: 'ModelError', message: /is truncated/ })
  await rm(weights)
  await assert.rejects(pack(dir), { name: 'ModelError', message: /model\.safetensors is missing/ })
  await writeFile(join(dir, 'config.json'), '{"architectures": ')
  await assert.rejects(pack(dir), { name: 'ModelError', message: /config\.json is not valid JSON/ })
  assert.deepEqual(await listModels(store), [])
})

test('refuses names and blocks that can not be used', async (t) => {
  const store = createBlobStore({ dir: await temporaryDir(t) })
  const pack = (more: { name?: string; block?: number }) =>
    packCheckpoint({ dir: goldenCheckpoint('random-olmoe'), store, quant: 'q4', tokenizer: 'optional', ...more })
  for (const name of ['', '../x', 'Ember', 'a'.repeat(65), '.x'])
    await assert.rejects(pack({ name }), { name: 'ModelError', message: /can't be a model's name/ })
  for (const block of [0, 48, 256, Number.NaN])
    await assert.rejects(pack({ block }), { name: 'ModelError', message: /use one of 16, 32, 64, 128/ })
})

test('tells apart a model that is not there from one that is damaged', async (t) => {
  const store = createBlobStore({ dir: await temporaryDir(t) })
  const model = await packCheckpoint({ dir: goldenCheckpoint('random-olmoe'), store, quant: 'q4', name: 'olmoe', tokenizer: 'optional' })
  await assert.rejects(openModel(store, 'other'), { name: 'ModelMissingError', message: /no model "other"; it has: olmoe/ })
  await assert.rejects(openModel(store, '../../x'), { name: 'ModelMissingError' })
  await writeFile(join(store.dir, model.id), '{}')
  await assert.rejects(openModel(store, 'olmoe'), { name: 'ModelError', message: /corrupt/ })
  await assert.rejects(openModel(store, 'olmoe'), { name: 'ModelMissingError', message: /manifest is not in/ })
  await writeFile(join(store.dir, 'models', 'olmoe.json'), '{"manifest": "x"}')
  await assert.rejects(listModels(store), { name: 'ModelError', message: /olmoe\.json is damaged: delete it/ })
})
