import assert from 'node:assert/strict'
import { test } from 'node:test'
import * as fc from 'fast-check'
import { picksOf } from '../../../node/engine/picks.ts'

test('sorts picks by expert, then row, with their weights', () => {
  const picks = picksOf({ experts: Int32Array.of(3, 0, 0, 1), weights: Float32Array.of(0.75, 0.25, 0.5, 0.125) }, 2, 4)
  assert.deepEqual([...picks.pickExpert], [0, 0, 1, 3])
  assert.deepEqual([...picks.pickRow], [0, 1, 1, 0])
  assert.deepEqual([...picks.pickWeight], [0.25, 0.5, 0.125, 0.75])
})

test('keeps every choice once, in order (property)', () => {
  const choices = fc.tuple(fc.integer({ min: 1, max: 20 }), fc.integer({ min: 1, max: 8 })).chain(([rows, k]) =>
    fc.record({
      rows: fc.constant(rows),
      experts: fc.array(fc.integer({ min: 0, max: 9 }), { minLength: rows * k, maxLength: rows * k }),
    }),
  )
  fc.assert(
    fc.property(choices, ({ rows, experts }) => {
      const k = experts.length / rows
      const weights = Float32Array.from(experts, (_, i) => i)
      const picks = picksOf({ experts: Int32Array.from(experts), weights }, rows, 10)
      const expected = experts
        .map((expert, i) => ({ expert, row: Math.floor(i / k), weight: i }))
        .sort((a, b) => a.expert - b.expert || a.weight - b.weight)
      assert.deepEqual(
        [...picks.pickExpert],
        expected.map((p) => p.expert),
      )
      assert.deepEqual(
        [...picks.pickRow],
        expected.map((p) => p.row),
      )
      assert.deepEqual(
        [...picks.pickWeight],
        expected.map((p) => p.weight),
      )
    }),
  )
})

test('refuses experts and shapes that do not exist', () => {
  assert.throws(() => picksOf({ experts: Int32Array.of(4), weights: Float32Array.of(1) }, 1, 4), /expert 4 of 4/)
  assert.throws(() => picksOf({ experts: Int32Array.of(-1), weights: Float32Array.of(1) }, 1, 4), /expert -1 of 4/)
  assert.throws(() => picksOf({ experts: Int32Array.of(1, 2, 3), weights: new Float32Array(3) }, 2, 4), RangeError)
  assert.throws(() => picksOf({ experts: Int32Array.of(1, 2), weights: new Float32Array(1) }, 1, 4), RangeError)
})
