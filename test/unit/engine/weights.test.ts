import assert from 'node:assert/strict'
import { test } from 'node:test'
import { OnnxGraph } from '../../../node/engine/onnx-graph.ts'
import { BlobWeights } from '../../../node/engine/weights.ts'
import type { Quant, TensorEntry } from '../../../node/model/manifest.ts'

const tensor = (entry: Partial<TensorEntry>): TensorEntry => ({ name: 'q', type: 'f32', shape: [4, 2], offset: 0, bytes: 32, ...entry })

function weights(tensors: readonly TensorEntry[], quant: Quant = { kind: 'f32', block: 0 }): BlobWeights {
  return new BlobWeights({ cid: 'bafyblob', fileName: 'bafyblob', bytes: 4096, quant, tensors, start: 0, scratch: null })
}

test('a tensor that a graph needs is checked before it is mapped', () => {
  const wrong: [TensorEntry[], RegExp][] = [
    [[], /blob bafyblob: tensor "q" is missing/],
    [[tensor({ type: 'f16' })], /"q" is f16, expected f32/],
    [[tensor({ shape: [2, 4] })], /"q" has shape \[2, 4\], expected \[4, 2\]/],
    [[tensor({ bytes: 31 })], /"q" has 31 bytes, its shape needs 32/],
    [[tensor({ offset: 4096 })], /"q" ends beyond the blob's 4096 bytes/],
  ]
  for (const [tensors, message] of wrong) {
    assert.throws(() => weights(tensors).addLinear(new OnnxGraph('g'), 'q', 'x', 'y', 4, 2), { name: 'ModelError', message })
  }
})

test('quantised weights need codes and scales of the manifest’s block size', () => {
  const codes = tensor({ name: 'q.codes', type: 'u8', shape: [2, 2, 8], bytes: 32 })
  const scales = tensor({ name: 'q.scales', shape: [2, 2], bytes: 16, offset: 64 })
  const q4 = { kind: 'q4', block: 32 } as const
  // No block divides 20 inputs, so the packer takes the smallest, 16, and pads the second.
  weights([codes, scales], q4).addLinear(new OnnxGraph('g'), 'q', 'x', 'y', 20, 2)
  assert.throws(() => weights([codes], q4).addLinear(new OnnxGraph('g'), 'q', 'x', 'y', 20, 2), /"q.scales" is missing/)
  assert.throws(() => weights([codes, scales], q4).addLinear(new OnnxGraph('g'), 'q', 'x', 'y', 64, 2), /"q.codes" has shape/)
  assert.throws(
    () => weights([codes, scales], { kind: 'q8', block: 32 }).addLinear(new OnnxGraph('g'), 'q', 'x', 'y', 20, 2),
    /"q.codes" has shape/,
  )
})
