import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeFp8E4m3 } from '../../../../node/model/dtypes/fp8.ts'

function decode(...codes: number[]): number[] {
  const into = new Float32Array(codes.length)
  decodeFp8E4m3(Uint8Array.from(codes), into)
  return [...into]
}

test('the values that the paper names', () => {
  // Zero, smallest and largest subnormal, smallest normal, one, largest.
  assert.deepEqual(decode(0x00, 0x01, 0x07, 0x08, 0x38, 0x7e), [0, 2 ** -9, 0.875 * 2 ** -6, 2 ** -6, 1, 448])
  assert.deepEqual(decode(0x80, 0x81, 0xb8, 0xfe), [-0, -(2 ** -9), -1, -448])
  assert.deepEqual(decode(0x7f, 0xff), [Number.NaN, Number.NaN])
})

test('codes of one sign rise with their value', () => {
  const values = decode(...Array.from({ length: 0x7f }, (_, code) => code))
  for (let i = 1; i < values.length; i++) assert.ok(values[i]! > values[i - 1]!)
})

test('what does not fit together is refused', () => {
  assert.throws(() => decodeFp8E4m3(new Uint8Array(3), new Float32Array(4)), RangeError)
})
