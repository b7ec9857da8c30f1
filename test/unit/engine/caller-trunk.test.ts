/** Passes of one row go through the layers in their caller's thread, others in the worker: over the same keys and values, with the same bits. */
import assert from 'node:assert/strict'
import { readdir, readlink } from 'node:fs/promises'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { createEngine } from '../../../node/engine/onnx-engine.ts'
import type { EngineInit, KvCache, Trunk } from '../../../node/engine/engine.ts'
import { kvTokenBytes } from '../../../node/engine/kv-shape.ts'
import type { ModelPackage } from '../../../node/model/package.ts'
import { feed, openLocally } from '../../helpers/local-generation.ts'
import type { LocalModel } from '../../helpers/local-generation.ts'
import { packForTest } from '../../helpers/packed-model.ts'
import { until } from '../../helpers/until.ts'

const PROMPT = Object.freeze([1, 2, 3, 4, 5])
const IN_WORKER: Partial<EngineInit> = Object.freeze({ callerRunBytes: 0 })

async function open(t: TestContext, model: ModelPackage, init: Partial<EngineInit>): Promise<LocalModel> {
  const engine = createEngine({ threads: 1, ...init })
  t.after(() => engine.close())
  return await openLocally(engine, model)
}

/** Logits of a prompt, of rows one by one, and of a fork that goes on with one row and then with several. */
async function walk(local: LocalModel): Promise<Float32Array[]> {
  const cache = local.trunk.createCache()
  const all = [(await feed(local, cache, PROMPT, 'all')).logits]
  for (const token of [6, 7, 8]) all.push((await feed(local, cache, [token], 'all')).logits)
  const fork = cache.fork(6)
  for (const tokens of [[9], [10, 11, 12], [13]]) all.push((await feed(local, fork, tokens, 'all')).logits)
  all.push((await feed(local, cache, [14], 'all')).logits)
  return all
}

/** Puts tokens into the cache; their experts are left out, which no length depends on. */
async function feedAll(trunk: Trunk, cache: KvCache, count: number): Promise<void> {
  const pass = trunk.beginPass([{ cache, tokens: Array.from({ length: count }, (_, i) => i) }])
  for (let layer = 0; layer < trunk.config.layers; layer++) await pass.attend(layer)
  pass.commit()
  pass.close()
}

/** A shared expert, dense layers and latent attention; a gate on the shared expert; sinks and windows. */
for (const name of ['random-deepseek3', 'random-qwen2moe', 'random-gptoss'] as const) {
  for (const type of ['f32', 'q16', 'q8'] as const) {
    test(`${name}, ${type}: the same bits in the caller’s thread and in the worker`, async (t) => {
      const { model } = await packForTest(t, name)
      const kv = { type, limitBytes: 2 ** 26 }
      const [caller, worker] = [await open(t, model, { kv }), await open(t, model, { kv, ...IN_WORKER })]
      assert.deepEqual(await walk(caller), await walk(worker))
    })
  }
}

test(
  'one row does not wait for a prompt that the worker computes',
  { skip: process.platform !== 'linux' && 'sessions are lent on Linux only' },
  async (t) => {
    const { model } = await packForTest(t, 'ember')
    const { trunk } = await open(t, model, {})
    const prompt = trunk.beginPass([{ cache: trunk.createCache(), tokens: Array.from({ length: 500 }, (_, i) => i) }])
    const row = trunk.beginPass([{ cache: trunk.createCache(), tokens: [1] }])
    const ends: string[] = []
    await Promise.all([prompt.attend(0).then(() => ends.push('prompt')), row.attend(0).then(() => ends.push('row'))])
    assert.deepEqual(ends, ['row', 'prompt'])
    prompt.close()
    row.close()
  },
)

test('what a closed pass still writes to is nobody else’s before it has ended', async (t) => {
  const { model } = await packForTest(t, 'ember')
  const { trunk } = await open(t, model, {})
  const cache = trunk.createCache()
  const pass = trunk.beginPass([{ cache, tokens: Array.from({ length: 300 }, (_, i) => i) }])
  const attending = pass.attend(0)
  pass.close()
  cache.close()
  const held = trunk.kv.usedBytes
  assert.ok(held > 0)
  await attending
  await until(() => trunk.kv.usedBytes === 0, { what: 'the blocks are given back' })
})

test('a row of a closed trunk is refused, at any layer', async (t) => {
  const { model } = await packForTest(t, 'random-qwen3moe')
  const { trunk } = await open(t, model, {})
  const [begun, fresh] = [1, 2].map((token) => trunk.beginPass([{ cache: trunk.createCache(), tokens: [token] }]))
  await begun!.attend(0)
  await trunk.close()
  for (const attending of [begun!.attend(1), fresh!.attend(0)]) await assert.rejects(attending, /the trunk is closed/)
  for (const pass of [begun!, fresh!]) pass.close()
})

test(
  'a closed engine takes back what was borrowed of it, and refuses rows',
  { skip: process.platform !== 'linux' && 'files are counted in /proc' },
  async (t) => {
    const { model, dir } = await packForTest(t, 'random-qwen2moe')
    const openFiles = async (): Promise<number> => {
      const files = await Promise.all((await readdir('/proc/self/fd')).map((fd) => readlink(`/proc/self/fd/${fd}`).catch(() => '')))
      return files.filter((file) => file.startsWith(dir)).length
    }
    const engine = createEngine({ threads: 1 })
    const { trunk } = await openLocally(engine, model)
    const pass = trunk.beginPass([{ cache: trunk.createCache(), tokens: [1] }])
    await pass.attend(0)
    assert.ok((await openFiles()) > 0)
    assert.equal(trunk.config.layers, 3)
    await pass.attend(1)
    // The shared expert of the layer is still to be computed, and by the next turn the worker has released its session.
    const closed = engine.close()
    for (const until = performance.now() + 200; performance.now() < until;);
    await closed
    assert.equal(await openFiles(), 0)
    await assert.rejects(pass.attend(2), /is closed/)
    pass.close()
    await trunk.close()
  },
)

test('a row with more keys and values before it than may be read at once is the worker’s', async (t) => {
  const { model } = await packForTest(t, 'ember')
  const layerBytes = Math.max(...model.manifest.blobs.map((blob) => (blob.role === 'layer' ? blob.bytes : 0)))
  const { layers } = model.manifest.config
  const limit = layerBytes + 100 * (kvTokenBytes(model.manifest.config, 'f32') / layers)
  const { trunk } = await open(t, model, { callerRunBytes: limit })
  for (const [past, isHere] of [
    [80, true],
    [120, false],
  ] as const) {
    const cache = trunk.createCache()
    await feedAll(trunk, cache, past)
    const pass = trunk.beginPass([{ cache, tokens: [1] }])
    let isDone = false
    void pass.attend(0).then(() => (isDone = true))
    // What this thread does by itself needs no turn of the event loop.
    await new Promise<void>((resolve) => process.nextTick(resolve))
    assert.equal(isDone, isHere && process.platform === 'linux')
    await until(() => isDone, { what: 'the layer' })
    pass.close()
  }
})

test('a row of a closed engine is refused', async (t) => {
  const { model } = await packForTest(t, 'random-qwen3moe')
  const engine = createEngine({ threads: 1 })
  const { trunk } = await openLocally(engine, model)
  const pass = trunk.beginPass([{ cache: trunk.createCache(), tokens: [1] }])
  await pass.attend(0)
  const closed = engine.close()
  await assert.rejects(pass.attend(1), /the engine is closed/)
  await closed
  pass.close()
})
