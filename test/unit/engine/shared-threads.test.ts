import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { createEngine } from '../../../node/engine/onnx-engine.ts'
import { shareThreads } from '../../../node/engine/shared-threads.ts'
import { generateGreedily, openLocally } from '../../helpers/local-generation.ts'
import { packForTest } from '../../helpers/packed-model.ts'

const MODEL = 'random-olmoe'
const TOKENS = Array.from({ length: 40 }, (_, i) => (i * 7) % 64)

/** What an engine of so many threads computes: tokens, and the logits and expert outputs of a prompt. */
async function compute(t: TestContext, threads: number, model: Awaited<ReturnType<typeof packForTest>>['model']) {
  const engine = createEngine({ threads, callerExpertBytes: 0 })
  t.after(() => engine.close())
  const local = await openLocally(engine, model)
  const tokens = await generateGreedily(local, TOKENS, 8)
  const { hiddenSize, experts } = model.manifest.config
  const x = Float32Array.from({ length: 3 * hiddenSize }, (_, i) => Math.sin(i))
  const pickExpert = Uint16Array.from({ length: 3 * experts }, (_, i) => Math.floor(i / 3))
  const pickRow = Uint16Array.from({ length: 3 * experts }, (_, i) => i % 3)
  return { tokens, outputs: await local.experts.run({ layer: 0, x, rows: 3, pickRow, pickExpert }) }
}

test('two threads that all sessions share compute the same bits as one; the first engine of a process decides', async (t) => {
  const whyNot = shareThreads(2)
  if (process.platform !== 'linux') assert.match(whyNot!, /not known to work/)
  else assert.equal(whyNot, null)
  const { model } = await packForTest(t, MODEL)
  const shared = await compute(t, 2, model)
  const alone = await compute(t, 1, model)
  assert.deepEqual(shared, alone)
  assert.ok(alone.outputs.some((value) => value !== 0))
  // With another number each session has threads of its own, and the bits stay.
  if (whyNot === null) assert.match(shareThreads(3)!, /shares 2 threads already/)
  assert.deepEqual(await compute(t, 3, model), alone)
})
