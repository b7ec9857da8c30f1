import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createEngine } from '../../../node/engine/onnx-engine.ts'
import { openLocally } from '../../helpers/local-generation.ts'
import { packForTest } from '../../helpers/packed-model.ts'

test('what onnxruntime returns does not wait for the garbage collector', async (t) => {
  const { model } = await packForTest(t, 'random-olmoe')
  const engine = createEngine({ threads: 1 })
  t.after(() => engine.close())
  const { experts } = await openLocally(engine, model)
  const { hiddenSize, experts: count } = model.manifest.config
  const rows = 64
  const job = {
    layer: 0,
    rows,
    x: new Float32Array(rows * hiddenSize).fill(1),
    pickRow: Uint16Array.from({ length: rows * count }, (_, pick) => pick % rows),
    pickExpert: Uint16Array.from({ length: rows * count }, (_, pick) => Math.floor(pick / rows)),
    pickWeight: new Float32Array(rows * count).fill(1),
  }
  await experts.run(job)
  const runs = 20
  const before = process.memoryUsage().arrayBuffers
  for (let run = 0; run < runs; run++) await experts.run(job)
  const grown = process.memoryUsage().arrayBuffers - before
  const summed = runs * rows * hiddenSize * Float32Array.BYTES_PER_ELEMENT
  assert.ok(grown < 3 * summed, `${grown} bytes more, of which the sums are ${summed} and the outputs ${count * summed}`)
})
