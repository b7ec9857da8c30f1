/** Checkpoints as transformers 5 saves them with `save_original_format=False`: all experts of a layer in two tensors. */
import assert from 'node:assert/strict'
import { cp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { createBlobStore } from '../../../node/model/blob-store.ts'
import { packCheckpoint } from '../../../node/model/pack.ts'
import { changedCheckpoint, goldenCheckpoint } from '../../helpers/checkpoint.ts'
import { readSafetensors, writeF32Tensors } from '../../helpers/safetensors.ts'
import type { PlainTensor } from '../../helpers/safetensors.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

const { checkpoints: LAYOUTS } = JSON.parse(await readFile(new URL('../../golden/fused-layout.json', import.meta.url), 'utf8')) as {
  readonly checkpoints: Readonly<Record<string, Readonly<Record<string, readonly number[]>>>>
}
const EXPERT = /^(model\.layers\.\d+)\.(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)\.weight$/
const PARTS: Readonly<Record<string, string>> = { gate_proj: 'gate', w1: 'gate', up_proj: 'up', w3: 'up', down_proj: 'down', w2: 'down' }

/** Names of tensors that are the same in both layouts. */
function heldName(name: string): string {
  return name
    .replace('block_sparse_moe.gate', 'mlp.gate')
    .replace('router.layer', 'router')
    .replace('input_linear.weight', 'experts.gate_up_proj')
    .replace('output_linear.weight', 'experts.down_proj')
}

/** The tensors with each layer's experts as one. */
function fused(tensors: ReadonlyMap<string, PlainTensor>): Record<string, PlainTensor> {
  const result: Record<string, PlainTensor> = {}
  const layers = new Map<string, Map<string, PlainTensor>>()
  for (const [name, tensor] of tensors) {
    const match = EXPERT.exec(name)
    if (match === null) result[heldName(name)] = tensor
    else {
      const parts = layers.get(match[1]!) ?? new Map<string, PlainTensor>()
      layers.set(match[1]!, parts.set(`${match[2]} ${PARTS[match[3]!]}`, tensor))
    }
  }
  for (const [prefix, parts] of layers) {
    const experts = parts.size / 3
    const [size, hidden] = parts.get('0 gate')!.shape as [number, number]
    const join = (...names: readonly string[]): Float32Array => {
      const pieces = Array.from({ length: experts }, (_, e) => names.map((name) => parts.get(`${e} ${name}`)!.data)).flat()
      return Float32Array.from(pieces.flatMap((piece) => [...piece]))
    }
    result[`${prefix}.mlp.experts.gate_up_proj`] = { shape: [experts, 2 * size, hidden], data: join('gate', 'up') }
    result[`${prefix}.mlp.experts.down_proj`] = { shape: [experts, hidden, size], data: join('down') }
  }
  return result
}

async function fusedCheckpoint(t: TestContext, name: string, change: (tensors: Record<string, PlainTensor>) => void = () => {}) {
  const source = goldenCheckpoint(name)
  const dir = join(await temporaryDir(t), 'checkpoint')
  await cp(source, dir, { recursive: true })
  const tensors = new Map<string, PlainTensor>()
  for (const file of await readdir(dir)) {
    if (!file.includes('.safetensors')) continue
    if (file.endsWith('.safetensors')) for (const [key, tensor] of readSafetensors(join(source, file))) tensors.set(key, tensor)
    await rm(join(dir, file))
  }
  const content = fused(tensors)
  change(content)
  await writeFile(join(dir, 'model.safetensors'), writeF32Tensors(content))
  return dir
}

for (const [name, layout] of Object.entries(LAYOUTS)) {
  test(`${name} with fused experts makes the blobs that it makes of the published layout`, async (t) => {
    const store = createBlobStore({ dir: await temporaryDir(t) })
    const pack = async (dir: string, quant: 'f32' | 'q4') =>
      (await packCheckpoint({ dir, store, quant, block: 16, name: 'same', tokenizer: 'optional' })).id
    const shapes: Record<string, readonly number[]> = {}
    const dir = await fusedCheckpoint(t, name, (tensors) => {
      for (const [key, { shape }] of Object.entries(tensors)) shapes[key] = shape
    })
    assert.deepEqual(shapes, layout, 'as transformers writes it')
    for (const quant of ['f32', 'q4'] as const) assert.equal(await pack(dir, quant), await pack(goldenCheckpoint(name), quant))
  })
}

test('a fused tensor of another shape is named, and so is a missing one', async (t) => {
  const store = createBlobStore({ dir: await temporaryDir(t) })
  const pack = (dir: string) => packCheckpoint({ dir, store, quant: 'q4', name: 'damaged', tokenizer: 'optional' })
  const name = 'model.layers.1.mlp.experts.gate_up_proj'
  const short = await fusedCheckpoint(t, 'random-olmoe', (tensors) => {
    const { shape, data } = tensors[name]!
    tensors[name] = { shape: [shape[0]! - 1, shape[1]!, shape[2]!], data: data.subarray(0, data.length - data.length / shape[0]!) }
  })
  await assert.rejects(pack(short), {
    name: 'ModelError',
    message: /gate_up_proj has shape \[.*\] and the configuration \(.*\) asks for \[/,
  })
  const missing = await fusedCheckpoint(t, 'random-olmoe', (tensors) => void delete tensors[name])
  await assert.rejects(pack(missing), { name: 'ModelError', message: new RegExp(`tensor ${name} is missing`) })
})

test('the number of experts under its other name, as transformers 5 saves Qwen3-MoE, makes the same model', async (t) => {
  const store = createBlobStore({ dir: await temporaryDir(t) })
  const pack = async (dir: string) => (await packCheckpoint({ dir, store, quant: 'f16', name: 'same', tokenizer: 'optional' })).id
  const source = goldenCheckpoint('random-qwen3moe')
  const renamed = await changedCheckpoint(t, source, { num_experts: undefined, num_local_experts: 8 })
  assert.equal(await pack(renamed), await pack(source))
})
