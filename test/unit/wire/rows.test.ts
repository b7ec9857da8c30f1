import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { decodeRows, encodeRows, ROW_TYPES, rowBytes } from '../../../protocols/wire/rows.ts'
import type { RowType } from '../../../protocols/wire/rows.ts'
import { vector } from '../../helpers/vector.ts'

/** 40 numbers in steps of a scale that binary fractions hold exactly, 32 zeros, and 8 numbers with a scale of 1. */
const I8_INPUT = [
  ...Array.from({ length: 40 }, (_, i) => (i < 33 ? ((i - 16) * 127) / 1024 : 0)),
  ...Array.from({ length: 32 }, () => 0),
  127,
  -127,
  63.5,
  -1,
  2,
  -3,
  4,
  -5,
]
/** The first row's two blocks have a scale of 1/64. */
const I8_OUTPUT = I8_INPUT.map((value, i) => (i < 40 ? Math.round(value * 64) / 64 : Math.round(value)))

const VECTORS: readonly {
  name: string
  type: RowType
  rows: number
  width: number
  input: readonly number[]
  output: readonly number[]
}[] = [
  {
    name: 'rows-f32',
    type: 'f32',
    rows: 2,
    width: 3,
    input: [1, -2, 0.5, 0.1, 3e-5, -7.25],
    output: [1, -2, 0.5, 0.1, 3e-5, -7.25].map(Math.fround),
  },
  { name: 'rows-f16', type: 'f16', rows: 1, width: 4, input: [1 / 3, 1e6, -65504, 1e-8], output: [0.333251953125, 65504, -65504, 0] },
  { name: 'rows-i8', type: 'i8', rows: 2, width: 40, input: I8_INPUT, output: I8_OUTPUT },
]

for (const { name, type, rows, width, input, output } of VECTORS) {
  test(`the vector ${name} is what its numbers encode to, and decodes to what they become`, () => {
    assert.deepEqual(encodeRows(type, Float32Array.from(input), rows, width), vector('wire', name))
    assert.deepEqual([...decodeRows(type, vector('wire', name), rows, width)], output)
  })
}

const finite = fc.float({ noNaN: true, noDefaultInfinity: true, min: Math.fround(-1e30), max: Math.fround(1e30) })
const matrix = fc.record({ rows: fc.integer({ min: 1, max: 4 }), width: fc.integer({ min: 1, max: 70 }) }).chain(({ rows, width }) =>
  fc.record({
    rows: fc.constant(rows),
    width: fc.constant(width),
    data: fc.array(finite, { minLength: rows * width, maxLength: rows * width }).map((values) => Float32Array.from(values)),
  }),
)

test('f32 comes back bit for bit', () => {
  fc.assert(
    fc.property(matrix, ({ rows, width, data }) => {
      assert.deepEqual(decodeRows('f32', encodeRows('f32', data, rows, width), rows, width), data)
    }),
  )
})

test('f16 comes back rounded to 11 bits, and clamped to its range', () => {
  fc.assert(
    fc.property(matrix, ({ rows, width, data }) => {
      decodeRows('f16', encodeRows('f16', data, rows, width), rows, width).forEach((value, i) => {
        const exact = Math.max(-65504, Math.min(65504, data[i]!))
        // Half a unit in the last place, below 2^-14 in the fixed steps of the subnormals.
        assert.ok(Math.abs(value - exact) <= Math.max(Math.abs(exact) * 2 ** -11, 2 ** -25), `${exact} became ${value}`)
      })
    }),
  )
})

test('i8 comes back within half a step of each block of 32', () => {
  fc.assert(
    fc.property(matrix, ({ rows, width, data }) => {
      decodeRows('i8', encodeRows('i8', data, rows, width), rows, width).forEach((value, i) => {
        const row = Math.floor(i / width)
        const from = row * width + Math.floor((i % width) / 32) * 32
        const block = data.subarray(from, Math.min(from + 32, (row + 1) * width))
        const largest = block.reduce((most, x) => Math.max(most, Math.abs(x)), 0)
        assert.ok(Math.abs(value - data[i]!) <= (largest / 127) * 0.501 + 2 ** -140, `${data[i]} became ${value}, block up to ${largest}`)
      })
    }),
  )
})

test('any bytes of the right number decode to that many numbers', () => {
  fc.assert(
    fc.property(fc.constantFrom(...ROW_TYPES), fc.integer({ min: 1, max: 40 }), fc.infiniteStream(fc.nat(255)), (type, width, stream) => {
      const bytes = Uint8Array.from(stream.take(rowBytes(type, 2, width)))
      assert.equal(decodeRows(type, bytes, 2, width).length, 2 * width)
    }),
  )
})

test('a wrong number of bytes is refused before memory is taken', () => {
  for (const type of ROW_TYPES) {
    assert.throws(() => decodeRows(type, new Uint8Array(5), 1, 3), {
      name: 'InvalidMessageError',
      message: /1 rows of 3 .* need \d+ bytes, not 5/,
    })
    assert.throws(() => decodeRows(type, new Uint8Array(5), 1 << 30, 1 << 14), { name: 'InvalidMessageError' })
  }
})

test('rows are copied both ways, from and to any offset', () => {
  for (const type of ROW_TYPES) {
    const data = new Float32Array(9).fill(1)
    const bytes = encodeRows(type, data.subarray(1), 2, 4)
    const frame = new Uint8Array(bytes.length + 3)
    frame.set(bytes, 3)
    data.fill(2)
    const decoded = decodeRows(type, frame.subarray(3), 2, 4)
    frame.fill(0)
    assert.deepEqual([...decoded], [1, 1, 1, 1, 1, 1, 1, 1])
  }
})
