import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { blockFor, shardRanges } from '../../../node/model/layout.ts'
import { quantise } from '../../../node/model/quantise.ts'
import { Xoshiro128 } from '../../../node/engine/random.ts'
import { dequantise } from '../../helpers/dequantise.ts'

const ramp = (values: readonly number[], length: number): Float32Array => Float32Array.from({ length }, (_, i) => values[i] ?? 0)

test('q4: the even weight is in the low half of a byte, zero is 8, the largest is 0 or an exact -8', () => {
  const { codes, scales } = quantise(ramp([-8, 7, 1, -1, 0, 3], 16), 1, 16, 4, 16)
  assert.deepEqual([...codes], [0xf0, 0x79, 0xb8, 0x88, 0x88, 0x88, 0x88, 0x88])
  assert.deepEqual([...scales], [1])
  const flipped = quantise(ramp([8, -7, 1], 16), 1, 16, 4, 16)
  assert.deepEqual([...flipped.codes], [0xf0, 0x87, 0x88, 0x88, 0x88, 0x88, 0x88, 0x88])
  assert.deepEqual([...flipped.scales], [-1])
})

test('q8: zero is 128, the largest is 127 away from it', () => {
  const { codes, scales } = quantise(ramp([-127, 127, 1, -1.4], 16), 1, 16, 8, 16)
  assert.deepEqual([...codes], [1, 255, 129, 127, ...Array.from({ length: 12 }, () => 128)])
  assert.deepEqual([...scales], [1])
})

test('blocks run along the inputs, row after row; the last block is padded with zeros', () => {
  const weights = Float32Array.from({ length: 2 * 24 }, (_, i) => (i < 24 ? 8 : -16))
  const { codes, scales } = quantise(weights, 2, 24, 4, 16)
  assert.deepEqual([...scales], [-1, -1, 2, 2])
  assert.equal(codes.length, 2 * 2 * 8)
  assert.deepEqual([...codes.subarray(8, 16)], [0, 0, 0, 0, 0x88, 0x88, 0x88, 0x88])
})

test('blocks of zeros and of numbers too small for a scale become zeros', () => {
  for (const bits of [4, 8] as const) {
    const { codes, scales } = quantise(ramp([1.5e-44, -4e-45], 16), 1, 16, bits, 16)
    assert.deepEqual([...scales], [0])
    assert.ok(codes.every((code) => code === (bits === 4 ? 0x88 : 128)))
  }
})

for (const bits of [4, 8] as const) {
  test(`q${bits}: no weight is further off than its block's scale allows`, () => {
    const numbers = fc.array(fc.float({ noNaN: true, min: -Math.fround(1e30), max: Math.fround(1e30) }), { minLength: 40, maxLength: 120 })
    fc.assert(
      fc.property(numbers, fc.constantFrom(16, 32, 64, 128), (values, block) => {
        const inputs = Math.floor(values.length / 2)
        const weights = Float32Array.from(values.slice(0, 2 * inputs))
        const { codes, scales } = quantise(weights, 2, inputs, bits, block)
        const again = dequantise(codes, scales, { rows: 2, inputs, bits, block })
        const blocks = Math.ceil(inputs / block)
        for (let i = 0; i < weights.length; i++) {
          const row = Math.floor(i / inputs)
          const scale = Math.abs(scales[row * blocks + Math.floor((i % inputs) / block)]!)
          // In 4 bits the largest weights may lie beyond the grid's end, by a third of its 8 steps.
          const allowed = scale * (bits === 4 ? 4 : 0.5) * (1 + 1e-5) + 1e-30
          assert.ok(Math.abs(weights[i]! - again[i]!) <= allowed, `weight ${weights[i]} became ${again[i]}, scale ${scale}`)
        }
      }),
    )
  })
}

test('q4: a block is off by no more than on the grid that ends at its largest weight, by less where few are large', () => {
  const random = Xoshiro128.fromSeed(5)
  const gaussian = (): number => Math.sqrt(-2 * Math.log(1 - random.nextFloat())) * Math.cos(2 * Math.PI * random.nextFloat())
  let searched = 0
  let plain = 0
  for (let round = 0; round < 200; round++) {
    const weights = Float32Array.from({ length: 128 }, gaussian)
    const { codes, scales } = quantise(weights, 1, 128, 4, 128)
    const again = dequantise(codes, scales, { rows: 1, inputs: 128, bits: 4, block: 128 })
    const largest = weights.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a))
    const step = largest / -8
    const error = weights.reduce((sum, weight, i) => sum + (weight - again[i]!) ** 2, 0)
    const plainError = weights.reduce((sum, weight) => sum + (weight - Math.min(Math.round(weight / step), 7) * step) ** 2, 0)
    assert.ok(error <= plainError * (1 + 1e-5), `${error} and ${plainError}`)
    searched += error
    plain += plainError
  }
  assert.ok(searched < 0.93 * plain, `${searched} and ${plain}`)
})

test('the block is the largest, at most the asked one, that divides the inputs', () => {
  assert.deepEqual(
    [blockFor(64, 256), blockFor(128, 192), blockFor(64, 96), blockFor(64, 48), blockFor(32, 256), blockFor(64, 40)],
    [64, 64, 32, 16, 32, 16],
  )
})

test('shards cover all experts in order, at least four of them, within the size', () => {
  assert.deepEqual(shardRanges(3, 4096), [
    { first: 0, last: 0 },
    { first: 1, last: 1 },
    { first: 2, last: 2 },
  ])
  assert.deepEqual(
    shardRanges(16, 4096).map(({ first, last }) => last - first + 1),
    [4, 4, 4, 4],
  )
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 600 }), fc.integer({ min: 1, max: 20_000 }), (experts, pages) => {
      const stride = pages * 4096
      const ranges = shardRanges(experts, stride)
      let next = 0
      for (const { first, last } of ranges) {
        assert.equal(first, next)
        assert.ok(last >= first)
        assert.ok(last === first || (last - first + 1) * stride <= 32 * 2 ** 20)
        next = last + 1
      }
      assert.equal(next, experts)
      assert.ok(ranges.length >= Math.min(4, experts))
    }),
  )
})
