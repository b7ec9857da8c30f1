import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeMxfp4 } from '../../../../node/model/dtypes/mxfp4.ts'

test('all codes, the even place in the low half, times the power of two', () => {
  const blocks = Uint8Array.from({ length: 16 }, (_, i) => ((2 * i) & 15) | (((2 * i + 1) & 15) << 4))
  const into = new Float32Array(64)
  decodeMxfp4(Uint8Array.of(...blocks, ...blocks), Uint8Array.of(127, 125), into)
  const values = [0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6]
  assert.deepEqual([...into.subarray(0, 32)], [...values, ...values])
  const quarter = values.map((value) => value / 4)
  assert.deepEqual([...into.subarray(32)], [...quarter, ...quarter])
})

test('the ends of the scale', () => {
  const into = new Float32Array(96)
  decodeMxfp4(new Uint8Array(48).fill(0x22), Uint8Array.of(0, 254, 255), into)
  assert.deepEqual([into[0], into[32], into[64]], [2 ** -127, 2 ** 127, Number.NaN])
})

test('what does not fit together is refused', () => {
  assert.throws(() => decodeMxfp4(new Uint8Array(15), new Uint8Array(1), new Float32Array(32)), RangeError)
  assert.throws(() => decodeMxfp4(new Uint8Array(16), new Uint8Array(1), new Float32Array(31)), RangeError)
})
