import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { openCheckpointTensors } from '../../../node/model/checkpoint-tensors.ts'
import type { CheckpointTensors } from '../../../node/model/checkpoint-tensors.ts'
import { everyRow, rowRange, sliceOf, transposed, unpaired } from '../../../node/model/source-tensor.ts'
import type { SourceTensor } from '../../../node/model/source-tensor.ts'
import { TensorReader } from '../../../node/model/tensor-reader.ts'
import { safetensorsBytes, writeF32Tensors } from '../../helpers/safetensors.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

async function tensorsOf(t: TestContext, bytes: Uint8Array): Promise<CheckpointTensors> {
  const dir = await temporaryDir(t)
  await writeFile(join(dir, 'model.safetensors'), bytes)
  return await openCheckpointTensors(dir)
}

function read(t: TestContext, tensor: SourceTensor): number[] {
  const reader = new TensorReader()
  t.after(() => reader.close())
  const whole = [...reader.readAll(tensor)]
  // Whatever stretch is read, it holds the same numbers.
  const [rows, columns] = tensor.shape.length === 1 ? [1, tensor.shape[0]!] : [tensor.shape[0]!, tensor.shape[1]!]
  for (const [row, column] of [
    [rows - 1, 0],
    [0, columns - 1],
    [Math.floor(rows / 2), Math.floor(columns / 2)],
  ] as const) {
    const panel = { row, rows: rows - row, column, columns: columns - column }
    const into = new Float32Array(panel.rows * panel.columns)
    reader.read(tensor, panel, into)
    for (let r = 0; r < panel.rows; r++) {
      for (let c = 0; c < panel.columns; c++) assert.equal(into[r * panel.columns + c], whole[(row + r) * columns + column + c])
    }
  }
  return whole
}

const counting = (count: number): Float32Array => Float32Array.from({ length: count }, (_, i) => i)

test('views pick what they say', async (t) => {
  const tensors = await tensorsOf(
    t,
    writeF32Tensors({ all: { shape: [2, 4, 3], data: counting(24) }, bias: { shape: [2, 4], data: counting(8) } }),
  )
  const second = sliceOf(tensors.get('all', [2, 4, 3]), 1)
  assert.deepEqual(read(t, second), [12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23])
  assert.deepEqual(read(t, everyRow(second, 1, 2)), [15, 16, 17, 21, 22, 23])
  assert.deepEqual(read(t, rowRange(second, 2, 2)), [18, 19, 20, 21, 22, 23])
  assert.deepEqual(read(t, transposed(second)), [12, 15, 18, 21, 13, 16, 19, 22, 14, 17, 20, 23])
  assert.deepEqual(read(t, everyRow(transposed(second), 0, 2)), [12, 15, 18, 21, 14, 17, 20, 23])
  assert.deepEqual(read(t, everyRow(sliceOf(tensors.get('bias', [2, 4]), 1), 1, 2)), [5, 7])
  // Heads of four rows, stored as first, third, second, fourth of a head.
  assert.deepEqual(read(t, unpaired(second, 4)), [12, 13, 14, 18, 19, 20, 15, 16, 17, 21, 22, 23])
  assert.throws(() => sliceOf(tensors.get('all', [2, 4, 3]), 2), TypeError)
})

test('fp8 codes are multiplied by the factor of their block', async (t) => {
  const [rows, columns] = [130, 129]
  // 0x38 is 1 in e4m3.
  const codes = new Uint8Array(rows * columns).fill(0x38)
  const scales = Float32Array.of(1, 2, 3, 4)
  const data = Buffer.concat([codes, Buffer.alloc(2), Buffer.from(scales.buffer)])
  const end = codes.byteLength
  const header = {
    w: { dtype: 'F8_E4M3', shape: [rows, columns], data_offsets: [0, end] },
    w_scale_inv: { dtype: 'F32', shape: [2, 2], data_offsets: [end + 2, end + 18] },
  }
  const tensors = await tensorsOf(t, safetensorsBytes(header, data))
  const numbers = read(t, tensors.get('w', [rows, columns]))
  for (const [r, c, expected] of [
    [0, 0, 1],
    [127, 127, 1],
    [127, 128, 2],
    [128, 127, 3],
    [129, 128, 4],
  ] as const) {
    assert.equal(numbers[r * columns + c], expected, `${r}, ${c}`)
  }
  assert.deepEqual(read(t, rowRange(tensors.get('w', [rows, columns]), 128, 2)).slice(126, 130), [3, 3, 4, 3])
})

test('MXFP4 weights are read from blocks and scales, one expert at a time', async (t) => {
  const blocks = new Uint8Array(2 * 2 * 16)
  for (let i = 0; i < blocks.length; i++) blocks[i] = 0x21 + (i >> 4)
  const scales = Uint8Array.of(127, 128, 126, 127)
  const header = {
    w_blocks: { dtype: 'U8', shape: [2, 2, 1, 16], data_offsets: [0, 64] },
    w_scales: { dtype: 'U8', shape: [2, 2, 1], data_offsets: [64, 68] },
  }
  const tensors = await tensorsOf(t, safetensorsBytes(header, Buffer.concat([blocks, scales])))
  const second = sliceOf(tensors.get('w', [2, 2, 32]), 1)
  // Codes 3 and 2 are 1.5 and 1, codes 4 and 2 are 2 and 1; scales are one half and one.
  const numbers = read(t, second)
  assert.deepEqual(numbers.slice(0, 4), [0.75, 0.5, 0.75, 0.5])
  assert.deepEqual(numbers.slice(32, 36), [2, 1, 2, 1])
  assert.deepEqual(read(t, everyRow(second, 1, 2)).slice(0, 2), [2, 1])
})

const SCALED: Record<string, { header: Record<string, unknown>; message: RegExp }> = {
  'fp8 without scales': {
    header: { w: { dtype: 'F8_E4M3', shape: [4, 4], data_offsets: [0, 16] } },
    message: /tensor w is F8_E4M3 without w_scale_inv beside it/,
  },
  'fp8 with scales of another block size': {
    header: {
      w: { dtype: 'F8_E4M3', shape: [4, 4], data_offsets: [0, 16] },
      w_scale_inv: { dtype: 'F32', shape: [2, 2], data_offsets: [16, 32] },
    },
    message: /tensor w_scale_inv \(F32 \[2, 2\]\) is no scale for w \[4, 4\] in blocks of 128 × 128; expected F32 \[1, 1\]/,
  },
  'MXFP4 without scales': {
    header: { w_blocks: { dtype: 'U8', shape: [1, 1, 16], data_offsets: [0, 16] } },
    message: /tensors w_blocks .* and w_scales \(missing\) do not make an MXFP4 weight/,
  },
  'bytes alone': {
    header: { w: { dtype: 'U8', shape: [4, 4], data_offsets: [0, 16] } },
    message: /tensor w has type U8, which is not read; use a checkpoint in F32/,
  },
}

for (const [what, { header, message }] of Object.entries(SCALED)) {
  test(`refuses ${what}, naming file, tensor and remedy`, async (t) => {
    const tensors = await tensorsOf(t, safetensorsBytes(header, new Uint8Array(32)))
    assert.throws(() => tensors.get('w', [4, 4]), { name: 'ModelError', message })
    assert.throws(() => tensors.get('w', [4, 4]), /model\.safetensors/)
  })
}

test('numbers that are not finite are refused in every coding', async (t) => {
  const coded: Record<string, [dtype: string, bytes: number[]]> = {
    F32: ['F32', [0, 0, 128, 127]],
    F16: ['F16', [0, 0x7c, 0, 0]],
    BF16: ['BF16', [0, 0, 0xc0, 0x7f]],
  }
  for (const [what, [dtype, bytes]] of Object.entries(coded)) {
    const count = dtype === 'F32' ? 1 : 2
    const tensors = await tensorsOf(t, safetensorsBytes({ w: { dtype, shape: [count], data_offsets: [0, 4] } }, Uint8Array.from(bytes)))
    assert.throws(
      () => new TensorReader().readAll(tensors.get('w', [count])),
      {
        name: 'ModelError',
        message: /model\.safetensors: tensor w has weights that are not finite: the checkpoint is damaged, get the file again/,
      },
      what,
    )
  }
})
