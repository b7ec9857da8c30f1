import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createEngine } from '../../../node/engine/onnx-engine.ts'
import type { KvInit } from '../../../node/engine/engine.ts'
import { kvTokenBytes } from '../../../node/engine/kv-shape.ts'
import { feed, openLocally } from '../../helpers/local-generation.ts'
import type { LocalModel } from '../../helpers/local-generation.ts'
import { packForTest } from '../../helpers/packed-model.ts'

const MODEL = 'ember'
const BLOCK = 64

const tokens = (count: number, first = 0): number[] => Array.from({ length: count }, (_, i) => ((first + i) * 7 + 3) % 4000)

async function open(t: { after(fn: () => Promise<void>): void }, kv?: (tokenBytes: number) => KvInit): Promise<LocalModel> {
  const { model } = await packForTest(t, MODEL)
  const init = kv?.(kvTokenBytes(model.manifest.config, 'f32'))
  const engine = createEngine({ threads: 1, ...(init === undefined ? {} : { kv: init }) })
  t.after(() => engine.close())
  return openLocally(engine, model)
}

test('a fork goes on with the bits that a sequence of its own would have, and disturbs nobody', async (t) => {
  const local = await open(t)
  const { trunk } = local
  for (const shared of [1, 40, BLOCK, 100, 2 * BLOCK]) {
    const parent = trunk.createCache()
    await feed(local, parent, tokens(150))
    const fork = parent.fork(shared)
    assert.equal(fork.length, shared)
    // Both grow in turn, so that each would run over the other's memory if it could.
    const forkLogits: Float32Array[] = []
    const parentLogits: Float32Array[] = []
    for (let i = 0; i < 3; i++) {
      forkLogits.push((await feed(local, fork, tokens(30, 900 + 30 * i))).logits)
      parentLogits.push((await feed(local, parent, tokens(30, 500 + 30 * i))).logits)
    }
    const own = trunk.createCache()
    await feed(local, own, tokens(150).slice(0, shared))
    const other = trunk.createCache()
    await feed(local, other, tokens(150))
    for (let i = 0; i < 3; i++) {
      assert.deepEqual((await feed(local, own, tokens(30, 900 + 30 * i))).logits, forkLogits[i], `fork at ${shared}`)
      assert.deepEqual((await feed(local, other, tokens(30, 500 + 30 * i))).logits, parentLogits[i], `parent of a fork at ${shared}`)
    }
    for (const cache of [parent, fork, own, other]) cache.close()
  }
  assert.equal(trunk.kv.usedBytes, 0)
})

test('a sequence that is cut back into blocks it shares gets blocks of its own', async (t) => {
  const local = await open(t)
  const parent = local.trunk.createCache()
  await feed(local, parent, tokens(200))
  const fork = parent.fork(200)
  const expected = (await feed(local, fork.fork(200), [9])).logits
  for (const length of [130, BLOCK, 10]) {
    parent.truncate(length)
    await feed(local, parent, tokens(190 - length, 77))
    assert.deepEqual((await feed(local, fork.fork(200), [9])).logits, expected, `the fork after the parent was cut to ${length}`)
  }
  parent.close()
  assert.deepEqual((await feed(local, fork, [9])).logits, expected)
  assert.throws(() => fork.fork(202), RangeError)
  assert.throws(() => fork.fork(-1), RangeError)
  fork.close()
  assert.throws(() => fork.fork(1), /closed/)
})

test('forks take memory only for what is theirs alone', async (t) => {
  const local = await open(t)
  const { trunk } = local
  const { tokenBytes } = trunk.kv
  const parent = trunk.createCache(4 * BLOCK)
  await feed(local, parent, tokens(4 * BLOCK))
  assert.equal(trunk.kv.usedBytes, 4 * BLOCK * tokenBytes)
  const whole = parent.fork(4 * BLOCK)
  assert.equal(trunk.kv.usedBytes, 4 * BLOCK * tokenBytes)
  const partly = parent.fork(BLOCK + 1)
  assert.equal(trunk.kv.usedBytes, 5 * BLOCK * tokenBytes)
  parent.close()
  assert.equal(trunk.kv.usedBytes, 5 * BLOCK * tokenBytes)
  whole.close()
  assert.equal(trunk.kv.usedBytes, 2 * BLOCK * tokenBytes)
  partly.close()
  partly.close()
  assert.equal(trunk.kv.usedBytes, 0)
})

test('memory is bounded: what was taken ahead is given back, and a pass without room changes nothing', async (t) => {
  const blocks = 4
  const local = await open(t, (tokenBytes) => ({ type: 'f32', limitBytes: blocks * BLOCK * tokenBytes }))
  const { trunk } = local
  assert.equal(trunk.kv.mostTokens, blocks * BLOCK)
  const greedy = trunk.createCache(blocks * BLOCK)
  await feed(local, greedy, tokens(10))
  assert.equal(trunk.kv.usedBytes, trunk.kv.limitBytes)
  const other = trunk.createCache()
  await feed(local, other, tokens(BLOCK + 1))
  assert.equal(trunk.kv.usedBytes, 3 * BLOCK * trunk.kv.tokenBytes)
  const full = { name: 'KvFullError', message: /key-value memory is full: \d+ bytes are needed and \d+ are free; raise --kv-memory/ }
  assert.throws(
    () =>
      trunk.beginPass([
        { cache: other, tokens: tokens(BLOCK) },
        { cache: greedy, tokens: tokens(BLOCK) },
      ]),
    full,
  )
  assert.deepEqual([other.length, greedy.length], [BLOCK + 1, 10])
  // Neither is stuck in the pass that never was.
  await feed(local, other, [1])
  await feed(local, greedy, tokens(BLOCK))
  assert.throws(() => other.fork(1), full)
  greedy.close()
  await feed(local, other, tokens(2 * BLOCK - 10))
  assert.throws(() => trunk.beginPass([{ cache: other, tokens: tokens(2 * BLOCK) }]), full)
  other.close()
  assert.equal(trunk.kv.usedBytes, 0)
})

for (const [type, memory, bound] of [
  ['q8', 0.4, 0.05],
  ['q16', 0.6, 2e-4],
] as const) {
  test(`keys and values in ${type} take less memory and hardly change the logits`, async (t) => {
    const exact = await open(t)
    const rough = await open(t, () => ({ type, limitBytes: 2 ** 28 }))
    assert.ok(rough.trunk.kv.tokenBytes <= memory * exact.trunk.kv.tokenBytes)
    const expected = (await feed(exact, exact.trunk.createCache(), tokens(150))).logits
    const cache = rough.trunk.createCache()
    await feed(rough, cache, tokens(100))
    const actual = (await feed(rough, cache.fork(100), tokens(150).slice(100))).logits
    let difference = 0
    let scale = 0
    for (const [i, value] of expected.entries()) {
      difference += (value - actual[i]!) ** 2
      scale += value ** 2
    }
    const error = Math.sqrt(difference / scale)
    t.diagnostic(`error of logits ${error.toExponential(1)}`)
    assert.ok(error > 0 && error < bound, `error of logits ${error}`)
  })
}
