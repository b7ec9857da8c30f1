/** A pass that goes through layers by itself gives what a walk layer by layer does. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Advance, KvCache } from '../../../node/engine/engine.ts'
import { picksOf } from '../../../node/engine/picks.ts'
import { expertLayers } from '../../../node/model/model-config.ts'
import { feed, openLocally } from '../../helpers/local-generation.ts'
import type { LocalModel } from '../../helpers/local-generation.ts'
import { engineForTest, packForTest } from '../../helpers/packed-model.ts'
import type { CheckpointName } from '../../helpers/packed-model.ts'

/** Attention before experts only; a shared expert; dense layers first, and a shared expert. */
const NAMES: readonly CheckpointName[] = ['random-qwen3moe', 'random-qwen2moe', 'random-deepseek3']
const TOKENS = Object.freeze([1, 2, 3, 4, 5])

/** Logits of all tokens, and how far each call went. */
async function feedAdvancing({ trunk, experts }: LocalModel, cache: KvCache, tokens: readonly number[]) {
  const pass = trunk.beginPass([{ cache, tokens }])
  const advances: Advance[] = []
  try {
    while (pass.nextLayer < trunk.config.layers) {
      const { done, routing } = await pass.advance(experts)
      advances.push({ done: done.map((ran) => ({ ...ran, experts: ran.experts.slice() })), routing })
      if (routing === null) continue
      const picks = picksOf(routing, pass.rows, trunk.config.experts)
      pass.moe.set(await experts.run({ layer: pass.nextLayer - 1, x: routing.x, rows: pass.rows, ...picks }))
    }
    const logits = await pass.logits(tokens.map((_, row) => row))
    pass.commit()
    return { logits, advances }
  } finally {
    pass.close()
  }
}

for (const name of NAMES) {
  test(`${name}: all layers in one call, with the same bits`, async (t) => {
    const { model } = await packForTest(t, name)
    const local = await openLocally(engineForTest(t), model)
    const [stepwise, advancing] = [local.trunk.createCache(), local.trunk.createCache()]
    for (const tokens of [TOKENS, [6], [7]]) {
      const expected = await feed(local, stepwise, tokens, 'all')
      const { logits, advances } = await feedAdvancing(local, advancing, tokens)
      assert.deepEqual(logits, expected.logits)
      assert.equal(advances.length, 1)
      const [{ done, routing }] = advances as [Advance]
      assert.equal(routing, null)
      const layers = expertLayers(local.trunk.config)
      assert.deepEqual(
        done.map(({ layer, experts }) => ({ layer, experts })),
        layers.map((layer) => ({ layer, experts: expected.routing.experts[layer] })),
      )
      assert.ok(done.every(({ computeUs }) => computeUs > 0 && computeUs < 60e6))
    }
  })
}

test('a pass stops where an expert is not here, and goes on once its caller has added them', async (t) => {
  const { model } = await packForTest(t, 'random-deepseek3')
  const local = await openLocally(engineForTest(t), model)
  const other = await openLocally(engineForTest(t), model)
  const expected = (await feed(local, local.trunk.createCache(), TOKENS, 'all')).logits
  const [first, ...rest] = expertLayers(local.trunk.config)
  for (const blob of model.manifest.blobs) {
    if (blob.role === 'experts' && blob.layer === first) await local.experts.closeShard(blob.layer, blob.first)
  }
  const pass = local.trunk.beginPass([{ cache: local.trunk.createCache(), tokens: TOKENS }])
  const stopped = await pass.advance(local.experts)
  assert.deepEqual(stopped.done, [])
  assert.equal(pass.nextLayer, first! + 1)
  assert.ok(pass.moe.every((value) => value === 0))
  const picks = picksOf(stopped.routing!, pass.rows, local.trunk.config.experts)
  pass.moe.set(await other.experts.run({ layer: first!, x: stopped.routing!.x, rows: pass.rows, ...picks }))
  const { done, routing } = await pass.advance(local.experts)
  assert.deepEqual([done.map(({ layer }) => layer), routing], [rest, null])
  assert.deepEqual(await pass.logits(TOKENS.map((_, row) => row)), expected)
  await assert.rejects(pass.advance(local.experts), /out of turn/)
  pass.close()
  await assert.rejects(pass.advance(local.experts), /out of turn/)
})

test('others have their turn between the layers of a pass', async (t) => {
  const { model } = await packForTest(t, 'random-qwen3moe')
  const local = await openLocally(engineForTest(t), model)
  const { logits } = await feed(local, local.trunk.createCache(), TOKENS, 'all')
  const job = { layer: 0, x: new Float32Array(64).fill(1), rows: 1, pickRow: Uint16Array.of(0), pickExpert: Uint16Array.of(3) }
  const expected = await local.experts.run(job)
  const ends: string[] = []
  const ended =
    (name: string) =>
    <T>(result: T): T => {
      ends.push(name)
      return result
    }
  const [one, two, between] = await Promise.all([
    feedAdvancing(local, local.trunk.createCache(), TOKENS).then(ended('pass')),
    feedAdvancing(local, local.trunk.createCache(), TOKENS).then(ended('pass')),
    local.experts.run(job).then(ended('job')),
  ])
  assert.deepEqual([one.logits, two.logits, between], [logits, logits, expected])
  assert.deepEqual(ends, ['job', 'pass', 'pass'])
})

test('a pass that is closed on its way ends, and leaves its cache and the engine as they were', async (t) => {
  const { model } = await packForTest(t, 'random-qwen3moe')
  const local = await openLocally(engineForTest(t), model)
  const { logits } = await feed(local, local.trunk.createCache(), TOKENS, 'all')
  const cache = local.trunk.createCache()
  const pass = local.trunk.beginPass([{ cache, tokens: [9, 9] }])
  const advance = assert.rejects(pass.advance(local.experts), /has ended/)
  pass.close()
  await advance
  assert.equal(cache.length, 0)
  assert.deepEqual((await feedAdvancing(local, cache, TOKENS)).logits, logits)
})

test('experts that run elsewhere are left to the caller, layer by layer', async (t) => {
  const { model } = await packForTest(t, 'random-qwen3moe')
  const local = await openLocally(engineForTest(t), model)
  const expected = (await feed(local, local.trunk.createCache(), TOKENS, 'all')).logits
  const { experts } = await openLocally(engineForTest(t), model)
  const { logits, advances } = await feedAdvancing({ ...local, experts }, local.trunk.createCache(), TOKENS)
  assert.deepEqual(logits, expected)
  assert.equal(advances.length, local.trunk.config.layers)
  assert.ok(advances.every(({ done, routing }) => done.length === 0 && routing !== null))
})
