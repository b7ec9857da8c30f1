import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import type { Provider } from '../../../node/engine/device.ts'
import { OnnxGraph } from '../../../node/engine/onnx-graph.ts'
import { createEngine } from '../../../node/engine/onnx-engine.ts'
import { Operand, Operands } from '../../../node/engine/operands.ts'
import { openSession } from '../../../node/engine/session.ts'
import { generateGreedily, openLocally } from '../../helpers/local-generation.ts'
import { packForTest } from '../../helpers/packed-model.ts'

/** Not to be had here, so that the processor computes, but through onnxruntime's package instead of its C API. */
const ELSEWHERE: Provider = process.platform === 'darwin' ? 'dml' : 'coreml'
const PROVIDERS = ['cpu', ELSEWHERE] as const

/** y = x + x for x [n, 2] */
function doubling(): Uint8Array {
  const graph = new OnnxGraph('doubling')
  graph.input('x', 'f32', ['n', 2])
  graph.output('y', 'f32', ['n', 2])
  graph.node('Add', ['x', 'x'], ['y'])
  return graph.toBytes()
}

for (const provider of PROVIDERS) {
  test(`${provider}: a session computes where its operands lie, as often as it is asked, in shared memory too`, () => {
    const session = openSession({ model: doubling(), folder: '', provider })
    const numbers = new Float32Array(new SharedArrayBuffer(64), 16, 4)
    const x = new Operand(numbers, [2, 2])
    const y = new Operand(new Float32Array(4), [2, 2])
    const [feeds, fetches] = [new Operands({ x }), new Operands({ y })]
    for (const first of [1, 7]) {
      numbers.set([first, 2, 3, 4])
      session.run(feeds, fetches)
      assert.deepEqual([...y.numbers], [2 * first, 4, 6, 8])
    }
    // A freed operand is made anew when it is used again.
    y.free()
    session.run(new Operands({ x }), new Operands({ y }))
    assert.equal(y.numbers[0], 14)
    for (const operand of [x, y]) operand.free()
    session.release()
  })

  test(`${provider}: what onnxruntime refuses is an error with its words`, () => {
    assert.throws(() => openSession({ model: new Uint8Array([1, 2, 3]), folder: '', provider }), /[Pp]rotobuf|model/)
    const session = openSession({ model: doubling(), folder: '', provider })
    const x = new Operand(new Float32Array(3), [1, 3])
    const y = new Operand(new Float32Array(2), [1, 2])
    assert.throws(() => session.run(new Operands({ x }), new Operands({ y })), /dimension/)
    // It goes on.
    const right = new Operand(Float32Array.of(1, 2), [1, 2])
    session.run(new Operands({ x: right }), new Operands({ y }))
    assert.deepEqual([...y.numbers], [2, 4])
    for (const operand of [x, y, right]) operand.free()
    session.release()
  })
}

/** Tokens, and the outputs of all experts of a layer. */
async function compute(t: TestContext, provider: Provider, model: Awaited<ReturnType<typeof packForTest>>['model']) {
  const engine = createEngine({ threads: 1, provider, callerRunBytes: 0 })
  t.after(() => engine.close())
  const local = await openLocally(engine, model)
  const tokens = await generateGreedily(local, [3, 1, 4, 1, 5], 8)
  const { hiddenSize, experts } = model.manifest.config
  const x = Float32Array.from({ length: hiddenSize }, (_, i) => Math.sin(i))
  const pickExpert = Uint16Array.from({ length: experts }, (_, i) => i)
  return { tokens, outputs: await local.experts.run({ layer: 0, x, rows: 1, pickRow: new Uint16Array(experts), pickExpert }) }
}

test('a model gives the same bits through the C API and through the package', async (t) => {
  const { model } = await packForTest(t, 'random-olmoe')
  const [native, packaged] = [await compute(t, 'cpu', model), await compute(t, ELSEWHERE, model)]
  assert.deepEqual(native, packaged)
  assert.ok(native.outputs.some((value) => value !== 0))
})
