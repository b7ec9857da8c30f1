import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Xoshiro128 } from '../../../node/engine/random.ts'

test('gives the outputs of the reference implementation', () => {
  const random = new Xoshiro128([1, 2, 3, 4])
  const expected = [11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804]
  assert.deepEqual(
    expected.map(() => random.nextUint32()),
    expected,
  )
})

test('floats are in [0, 1) and evenly spread', () => {
  const random = Xoshiro128.fromSeed(7)
  const bins = new Uint32Array(10)
  for (let i = 0; i < 100_000; i++) {
    const x = random.nextFloat()
    assert.ok(x >= 0 && x < 1)
    bins[Math.floor(x * 10)]!++
  }
  // 10,000 expected, standard deviation 95.
  for (const count of bins) assert.ok(Math.abs(count - 10_000) < 500, `${count} in a tenth`)
})

test('equal seeds give equal sequences, different ones do not; any integer is a seed', () => {
  const first = (seed: number): number[] => {
    const random = Xoshiro128.fromSeed(seed)
    return [random.nextUint32(), random.nextUint32(), random.nextUint32()]
  }
  assert.deepEqual(first(42), first(42))
  for (const seed of [0, -1, Number.MAX_SAFE_INTEGER, Number.MIN_SAFE_INTEGER]) assert.notDeepEqual(first(seed), first(42))
  assert.throws(() => new Xoshiro128([0, 0, 0, 0]), RangeError)
})
