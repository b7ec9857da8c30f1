import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import type { EngineInit } from '../../../node/engine/engine.ts'
import { NativeSemaphore } from '../../../node/engine/native-semaphore.ts'
import { OnnxGraph } from '../../../node/engine/onnx-graph.ts'
import { createEngine } from '../../../node/engine/onnx-engine.ts'
import { Operand, Operands } from '../../../node/engine/operands.ts'
import type { ModelPackage } from '../../../node/model/package.ts'
import { openSession } from '../../../node/engine/session.ts'
import { shareThreads } from '../../../node/engine/shared-threads.ts'
import { generateGreedily, openLocally } from '../../helpers/local-generation.ts'
import { packFolderForTest, wideCheckpoint } from '../../helpers/packed-model.ts'

const TOKENS = Array.from({ length: 40 }, (_, i) => (i * 7) % 64)

/** What an engine of so many threads computes: tokens, and the logits and expert outputs of a prompt. */
async function compute(t: TestContext, threads: number, model: ModelPackage, init: Partial<EngineInit> = { callerRunBytes: 0 }) {
  const engine = createEngine({ threads, ...init })
  t.after(() => engine.close())
  const local = await openLocally(engine, model)
  const tokens = await generateGreedily(local, TOKENS, 8)
  const { hiddenSize, experts } = model.manifest.config
  const x = Float32Array.from({ length: 3 * hiddenSize }, (_, i) => Math.sin(i))
  const pickExpert = Uint16Array.from({ length: 3 * experts }, (_, i) => Math.floor(i / 3))
  const pickRow = Uint16Array.from({ length: 3 * experts }, (_, i) => i % 3)
  const outputs = await local.experts.run({ layer: 0, x, rows: 3, pickRow, pickExpert })
  // Of one row, in all threads at once where there are any.
  const each = Uint16Array.from({ length: experts }, (_, i) => i)
  const one = { layer: 0, x: x.subarray(0, hiddenSize), rows: 1, pickRow: new Uint16Array(experts), pickExpert: each }
  const together = [await local.experts.run(one), await local.experts.run({ ...one, pickWeight: new Float32Array(experts).fill(0.5) })]
  return { tokens, outputs, together }
}

test('two threads that all sessions share compute the same bits as one; the first engine of a process decides', async (t) => {
  const whyNot = shareThreads(2)
  if (process.platform !== 'linux') assert.match(whyNot!, /not known to work/)
  else assert.equal(whyNot, null)
  // Experts large enough to be shared.
  const { model } = await packFolderForTest(t, await wideCheckpoint(t), { kind: 'f32' })
  const shared = await compute(t, 2, model)
  const alone = await compute(t, 1, model)
  assert.deepEqual(shared, alone)
  // In the thread of the caller and those that it shares.
  assert.deepEqual(await compute(t, 2, model, {}), alone)
  assert.ok(alone.outputs.some((value) => value !== 0))
  // With another number each session has threads of its own, and the bits stay.
  if (whyNot === null) assert.match(shareThreads(3)!, /shares 2 threads already/)
  assert.deepEqual(await compute(t, 3, model), alone)
})

test('a session runs in another thread while this one does something else; one that fails there says so at the end', (t) => {
  if (shareThreads(2) !== null) {
    t.skip('threads are not shared here')
    return
  }
  const graph = new OnnxGraph('doubling')
  graph.input('x', 'f32', ['n', 2])
  graph.output('y', 'f32', ['n', 2])
  graph.node('Add', ['x', 'x'], ['y'])
  const session = openSession({ model: graph.toBytes(), folder: '', threads: 'shared' })
  const done = NativeSemaphore.create()
  assert.ok(session.runElsewhere !== null && done !== null)
  const pairs = Array.from({ length: 20 }, (_, i) => {
    return { x: new Operand(Float32Array.of(i, 1), [1, 2]), y: new Operand(new Float32Array(2).fill(Number.NaN), [1, 2]) }
  })
  // Held until the runs have ended.
  const runs = pairs.map(({ x, y }) => ({ feeds: new Operands({ x }), fetches: new Operands({ y }) }))
  for (const { feeds, fetches } of runs) session.runElsewhere(feeds, fetches, done)
  done.waitFor(pairs.length)
  assert.deepEqual(
    pairs.map(({ y }) => y.numbers[0]),
    pairs.map((_, i) => 2 * i),
  )
  const wrong = new Operand(new Float32Array(3), [1, 3])
  const { y } = pairs[0]!
  y.numbers.fill(Number.NaN)
  const wrongFeeds = new Operands({ x: wrong })
  session.runElsewhere(wrongFeeds, runs[0]!.fetches, done)
  done.waitFor(1)
  assert.ok(Number.isNaN(y.numbers[0]))
  for (const operand of [wrong, ...pairs.flatMap((pair) => [pair.x, pair.y])]) operand.free()
  session.release()
})
