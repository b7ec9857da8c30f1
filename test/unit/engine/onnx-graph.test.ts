import assert from 'node:assert/strict'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { OnnxGraph } from '../../../node/engine/onnx-graph.ts'
import { Operand, Operands } from '../../../node/engine/operands.ts'
import { openSession } from '../../../node/engine/session.ts'

test('writes the bytes that onnx.proto3 prescribes', () => {
  const graph = new OnnxGraph('g')
  graph.input('a', 'f32', [1, 'n'])
  graph.output('b', 'f32', [1, 'n'])
  graph.constant('axis', [1], BigInt64Array.of(-1n))
  graph.node('Softmax', ['a'], ['b'], { axis: -1 })
  // Written by an independent encoder from onnx.proto3's field numbers.
  const expected =
    '080a1205736b65696e3a790a320a01611201621a09536f66746d61785f302207536f66746d61782a140a046178697318ffffffffffffffffff01a001' +
    '023a001201672a14080110074204617869734a08ffffffffffffffff5a140a0161120f0a0d080112090a0208010a0312016e62140a0162120f0a0d08' +
    '0112090a0208010a0312016e42040a00101542110a0d636f6d2e6d6963726f736f66741001'
  assert.equal(Buffer.from(graph.toBytes()).toString('hex'), expected)
})

test('a graph with constants, attributes and an external weight runs', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'skein-graph-'))
  t.after(() => rm(folder, { recursive: true, force: true }))
  // Two pages; the weight is in the second.
  const bytes = Buffer.alloc(8192)
  Buffer.from(Float32Array.of(1, 2, 3, 4, 5, 6).buffer).copy(bytes, 4096)
  await writeFile(join(folder, 'weights'), bytes)
  const graph = new OnnxGraph('g')
  graph.input('x', 'f32', ['n', 2])
  graph.output('y', 'f32', ['n', 3])
  graph.weight('w', 'f32', [2, 3], { location: 'weights', offset: 4096, bytes: 24 })
  graph.node('MatMul', ['x', 'w'], ['product'])
  graph.constant('low', [], Float32Array.of(0))
  graph.constant('high', [], Float32Array.of(10))
  graph.node('Clip', ['product', 'low', 'high'], ['clipped'])
  graph.node('LeakyRelu', ['clipped'], ['y'], { alpha: { float: 0.5 } })
  const session = openSession({ model: graph.toBytes(), folder })
  const x = new Operand(Float32Array.of(1, 1, 2, -1), [2, 2])
  const y = new Operand(new Float32Array(6), [2, 3])
  session.run(new Operands({ x }), new Operands({ y }))
  session.release()
  for (const operand of [x, y]) operand.free()
  assert.deepEqual([...y.numbers], [5, 7, 9, 0, 0, 0])
})
