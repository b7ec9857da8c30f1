import assert from 'node:assert/strict'
import { test } from 'node:test'
import { weightedSum } from '../../../node/engine/combine.ts'

test('adds weighted outputs to their rows', () => {
  const into = Float32Array.of(1, 1, 0, 0)
  weightedSum({
    rows: 2,
    width: 2,
    pickRow: Uint16Array.of(0, 1, 0),
    pickWeight: Float32Array.of(0.5, 2, 0.25),
    outputs: Float32Array.of(2, 4, 1, 3, 8, 4),
    into,
  })
  assert.deepEqual([...into], [4, 4, 2, 6])
})

test('adds some of the picks, of which alone it has outputs', () => {
  const into = new Float32Array(4)
  const picks = { pickRow: Uint16Array.of(0, 1, 0), pickWeight: Float32Array.of(0.5, 2, 0.25) }
  weightedSum({ rows: 2, width: 2, ...picks, first: 1, end: 3, outputs: Float32Array.of(1, 3, 8, 4), into })
  assert.deepEqual([...into], [2, 1, 2, 6])
})

test('stores each partial sum as float32, in pick order', () => {
  const sum = (order: number[]): number => {
    const into = new Float32Array(1)
    const outputs = Float32Array.from(order)
    weightedSum({ rows: 1, width: 1, pickRow: new Uint16Array(3), pickWeight: new Float32Array(3).fill(1), outputs, into })
    return into[0]!
  }
  // 2^24 + 1 rounds back to 2^24 in float32; 1 + 1 first does not get lost.
  assert.equal(sum([16_777_216, 1, 1]), 16_777_216)
  assert.equal(sum([1, 1, 16_777_216]), 16_777_218)
})

test('refuses arrays that do not fit together', () => {
  const fits = {
    rows: 1,
    width: 2,
    pickRow: Uint16Array.of(0),
    pickWeight: Float32Array.of(1),
    outputs: new Float32Array(2),
    into: new Float32Array(2),
  }
  assert.throws(() => weightedSum({ ...fits, outputs: new Float32Array(1) }), RangeError)
  assert.throws(() => weightedSum({ ...fits, into: new Float32Array(3) }), RangeError)
  assert.throws(() => weightedSum({ ...fits, pickWeight: new Float32Array(0) }), RangeError)
  assert.throws(() => weightedSum({ ...fits, pickRow: Uint16Array.of(1) }), /row 1 of 1/)
  assert.throws(() => weightedSum({ ...fits, first: 1 }), RangeError)
  assert.throws(() => weightedSum({ ...fits, first: 1, end: 2 }), RangeError)
})
