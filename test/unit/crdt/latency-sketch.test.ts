import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { EMPTY_SKETCH, LatencySketch, SKETCH_ACCURACY, mergeSketches, sketchCount, sketchQuantile } from '../../../crdt/latency-sketch.ts'

const latencies = fc.array(fc.double({ min: 1, max: 4e8, noNaN: true }), { minLength: 1, maxLength: 300 })

function sketchOf(values: readonly number[], window = Infinity): LatencySketch {
  const sketch = new LatencySketch(window)
  for (const value of values) sketch.add(value)
  return sketch
}

test('every quantile is within 5 % of the true one', () => {
  fc.assert(
    fc.property(latencies, fc.double({ min: 0, max: 1, noNaN: true }), (values, share) => {
      const sorted = values.toSorted((a, b) => a - b)
      const exact = sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!
      const found = sketchOf(values).quantile(share)!
      assert.ok(Math.abs(found - exact) <= SKETCH_ACCURACY * exact * (1 + 1e-9), `${found} for ${exact}`)
    }),
  )
})

test('sketches of parts merge to the sketch of the whole, in any order', () => {
  fc.assert(
    fc.property(latencies, latencies, latencies, (a, b, c) => {
      const [x, y, z] = [a, b, c].map((values) => sketchOf(values).value()) as [never, never, never]
      const whole = sketchOf([...a, ...b, ...c]).value()
      assert.deepEqual(mergeSketches([x, y, z]), whole)
      assert.deepEqual(mergeSketches([z, mergeSketches([y, x])]), whole)
    }),
  )
})

test('what is out of range counts at its end', () => {
  const { first, counts } = sketchOf([0, -5, 1e12]).value()
  assert.deepEqual([first, counts.length, counts[0], counts.at(-1)], [0, 200, 2, 1])
})

test('nothing has no quantile', () => {
  assert.equal(sketchQuantile(EMPTY_SKETCH, 0.5), null)
  assert.deepEqual(new LatencySketch(10).value(), EMPTY_SKETCH)
})

test('old calls fade once there are more than the window', () => {
  const sketch = sketchOf(
    Array.from({ length: 1000 }, () => 1_000_000),
    1000,
  )
  for (let i = 0; i < 2000; i++) sketch.add(100)
  assert.ok(sketch.quantile(0.5)! < 110)
  assert.ok(sketchCount(sketch.value()) <= 1000)
})
