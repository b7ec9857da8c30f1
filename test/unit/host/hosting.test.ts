import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { ExpertHost } from '../../../node/host/expert-host.ts'
import { Hosting } from '../../../node/host/hosting.ts'
import type { HostingComponents } from '../../../node/host/hosting.ts'
import { shardsOf } from '../../../node/host/holdings-service.ts'
import { createBlobStore } from '../../../node/model/blob-store.ts'
import { engineForTest, packForTest } from '../../helpers/packed-model.ts'

const FOREVER = new AbortController().signal

async function hostingOf(t: TestContext, fetch: HostingComponents['fetch'] = async () => {}) {
  const { model, dir } = await packForTest(t, 'random-qwen3moe')
  const host = new ExpertHost({ concurrency: 1 })
  const hosting = new Hosting({ engine: engineForTest(t), host, store: createBlobStore({ dir }), fetch, log: () => {} })
  t.after(() => hosting.stop())
  const announced: number[] = []
  const held = await hosting.add(model)
  hosting.onChange = ({ id }) => announced.push(hosting.shards(id, 'serving').length)
  const [first, second] = shardsOf(held)
  const usable = (): boolean => hosting.isUsable(held.id, first!.layer, first!.first)
  return { hosting, held, first: first!, second: second!, announced, usable }
}

test('a shard is announced once it is open and tested, and no expert of it is used before', async (t) => {
  const { hosting, held, first, announced, usable } = await hostingOf(t)
  const holding = hosting.hold(held.id, first, FOREVER)
  assert.deepEqual([hosting.stateOf(held.id, first.cid), usable(), announced], ['opening', false, []])
  await Promise.all([holding, hosting.hold(held.id, first, FOREVER)])
  assert.deepEqual([hosting.stateOf(held.id, first.cid), usable(), announced], ['serving', true, [1]])
})

test("the experts are the own driver's alone while it may use every one of them", async (t) => {
  const { hosting, held, first } = await hostingOf(t)
  const own = (): boolean => hosting.ownExperts(held.id) === held.experts
  const shards = shardsOf(held)
  for (const [i, shard] of shards.entries()) {
    assert.equal(hosting.ownExperts(held.id), null)
    await (i % 2 === 0 ? hosting.hold(held.id, shard, FOREVER) : hosting.cache(held.id, shard, FOREVER))
  }
  assert.equal(own(), true)
  hosting.leave(held.id, new Set([first.cid]))
  assert.equal(own(), true)
  const released = hosting.release(held.id, first)
  await new Promise((resolve) => setImmediate(resolve))
  assert.equal(own(), false)
  await released
  assert.equal(hosting.ownExperts('another'), null)
})

test('what was given up is not used any more at once, and answered until it has drained', async (t) => {
  const { hosting, held, first, second, announced, usable } = await hostingOf(t)
  await hosting.hold(held.id, first, FOREVER)
  await hosting.hold(held.id, second, FOREVER)
  const released = hosting.release(held.id, first)
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual([hosting.stateOf(held.id, first.cid), usable(), announced.at(-1)], ['draining', false, 1])
  assert.equal(held.experts.has(first.layer, first.first), true)
  const again = hosting.hold(held.id, first, FOREVER)
  await released
  await again
  assert.deepEqual([usable(), announced.at(-1)], [true, 2])
})

test('a shard that is leaving is announced and used until it is released, and can stay after all', async (t) => {
  const { hosting, held, first, announced, usable } = await hostingOf(t)
  await hosting.hold(held.id, first, FOREVER)
  const cids = new Set([first.cid])
  hosting.leave(held.id, cids)
  assert.deepEqual([hosting.stateOf(held.id, first.cid), usable(), announced], ['leaving', true, [1, 0]])
  hosting.leave(held.id, cids)
  hosting.stay(held.id, cids)
  hosting.stay(held.id, cids)
  assert.deepEqual([hosting.stateOf(held.id, first.cid), announced], ['serving', [1, 0, 1]])
  hosting.leave(held.id, cids)
  await hosting.cache(held.id, first, FOREVER)
  assert.equal(hosting.stateOf(held.id, first.cid), 'leaving')
  await hosting.hold(held.id, first, FOREVER)
  assert.equal(hosting.stateOf(held.id, first.cid), 'serving', 'who is asked to hold it again does not leave it')
})

test('a cached shard is used here and not announced; it can be served without being opened again', async (t) => {
  const { hosting, held, first, announced, usable } = await hostingOf(t)
  await hosting.cache(held.id, first, FOREVER)
  assert.deepEqual([usable(), hosting.isCached(held.id, first.layer, first.first), announced], [true, true, []])
  await hosting.hold(held.id, first, FOREVER)
  assert.deepEqual([hosting.isCached(held.id, first.layer, first.first), announced], [false, [1]])
  await hosting.cache(held.id, first, FOREVER)
  assert.equal(hosting.stateOf(held.id, first.cid), 'serving', 'what is served is not hidden')
})

test('a shard that cannot be had leaves nothing behind, and can be tried again', async (t) => {
  let fails = true
  const { hosting, held, first, announced } = await hostingOf(t, async () => {
    if (fails) throw new Error('nobody has it')
  })
  await assert.rejects(hosting.hold(held.id, first, FOREVER), { message: 'nobody has it' })
  assert.deepEqual([hosting.stateOf(held.id, first.cid), held.experts.has(first.layer, first.first), announced], [null, false, []])
  fails = false
  await hosting.hold(held.id, first, FOREVER)
  assert.deepEqual(announced, [1])
  await assert.rejects(hosting.hold('other', first, FOREVER), { name: 'ModelError', message: /not known here/ })
})
