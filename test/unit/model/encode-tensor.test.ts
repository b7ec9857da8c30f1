import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { PartEncoder } from '../../../node/model/encode-tensor.ts'
import { denseTensor } from '../../../node/model/source-tensor.ts'
import { TensorReader } from '../../../node/model/tensor-reader.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

test('a weight too large to be held whole is transposed in strips', async (t) => {
  // Seven columns at most are held at once, and given out two by two.
  const [rows, columns] = [2_100, 9]
  const words = Uint16Array.from({ length: rows * columns }, (_, i) => (i * 7) & 0x3fff)
  const file = join(await temporaryDir(t), 'weights')
  await writeFile(file, words)
  const source = denseTensor({ name: 'w', file, dtype: 'BF16', shape: [rows, columns], offset: 0, bytes: words.byteLength })
  const reader = new TensorReader()
  t.after(() => reader.close())
  let at = 0
  let chunks = 0
  let counted = 0
  const bits = new Uint32Array(1)
  const number = new Float32Array(bits.buffer)
  for (const { bytes, numbers } of new PartEncoder(reader, { stripNumbers: 7 * rows, chunkNumbers: 2 * rows }).encode({
    encode: 'transposed',
    type: 'f32',
    source,
  })) {
    const out = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength / 4)
    for (let i = 0; i < out.length; i += 1) {
      const place = at + i
      bits[0] = words[(place % rows) * columns + Math.floor(place / rows)]! << 16
      assert.equal(out[i], number[0], `number ${place}`)
    }
    at += out.length
    counted += numbers
    chunks++
  }
  assert.equal(at, rows * columns)
  assert.equal(counted, rows * columns)
  assert.equal(chunks, 5)
})
