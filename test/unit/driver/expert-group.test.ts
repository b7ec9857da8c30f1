import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { callOf, expertRuns, groupOf } from '../../../node/driver/expert-group.ts'
import type { LayerWork } from '../../../node/driver/expert-group.ts'
import { picksOf } from '../../../node/engine/picks.ts'
import { decodeCall, encodeCall } from '../../../protocols/expert/messages.ts'

const WIDTH = 3
const EXPERTS = 8

/** A layer of rows whose numbers tell row and column, each routed to the given experts. */
function workOf(chosen: readonly (readonly number[])[]): LayerWork {
  const rows = chosen.length
  const picks = picksOf(
    { experts: Int32Array.from(chosen.flat()), weights: Float32Array.from(chosen.flat(), (_, i) => i + 1) },
    rows,
    EXPERTS,
  )
  const x = Float32Array.from({ length: rows * WIDTH }, (_, i) => Math.floor(i / WIDTH) * 10 + (i % WIDTH))
  return { layer: 4, rows, width: WIDTH, x, picks, runs: expertRuns(picks) }
}

test('the picks of each expert are one run, and the runs cover all picks in order', () => {
  const { runs } = workOf([
    [5, 1],
    [1, 7],
    [5, 7],
  ])
  assert.deepEqual(runs, [
    { expert: 1, from: 0, to: 2 },
    { expert: 5, from: 2, to: 4 },
    { expert: 7, from: 4, to: 6 },
  ])
  assert.deepEqual(expertRuns({ pickRow: new Uint16Array(), pickExpert: new Uint16Array(), pickWeight: new Float32Array() }), [])
})

test('a group of all runs is the layer itself, its rows not even copied', () => {
  const work = workOf([
    [5, 1],
    [1, 7],
  ])
  const group = groupOf(work, work.runs)
  assert.equal(group.x, work.x)
  assert.deepEqual([...group.rowOf], [0, 1])
  assert.deepEqual({ ...work.picks }, { pickRow: group.pickRow, pickExpert: group.pickExpert, pickWeight: group.pickWeight })
})

test('a group of some runs has each of their rows once, in the order of the layer', () => {
  const work = workOf([
    [0, 1],
    [2, 3],
    [0, 3],
    [4, 5],
  ])
  const group = groupOf(
    work,
    work.runs.filter((run) => run.expert === 0 || run.expert === 3),
  )
  assert.deepEqual([...group.rowOf], [0, 1, 2])
  assert.deepEqual([...group.x], [0, 1, 2, 10, 11, 12, 20, 21, 22])
  assert.deepEqual([...group.pickExpert], [0, 0, 3, 3])
  assert.deepEqual([...group.pickRow], [0, 2, 1, 2])
  assert.deepEqual([...group.pickWeight], [1, 5, 4, 6])
})

test('however the runs are split, every pick keeps its row, expert and weight, and each call is well-formed', () => {
  const layers = fc
    .integer({ min: 1, max: 3 })
    .chain((k) => fc.array(fc.uniqueArray(fc.nat(EXPERTS - 1), { minLength: k, maxLength: k }), { minLength: 1, maxLength: 6 }))
  fc.assert(
    fc.property(layers, fc.array(fc.nat(2), { minLength: EXPERTS, maxLength: EXPERTS }), (chosen, hostOf) => {
      const work = workOf(chosen)
      const seen: string[] = []
      for (const host of [0, 1, 2]) {
        const runs = work.runs.filter((run) => hostOf[run.expert] === host)
        if (runs.length === 0) continue
        const group = groupOf(work, runs)
        assert.equal(group.x.length, group.rowOf.length * WIDTH)
        group.pickRow.forEach((row, i) => {
          assert.equal(group.x[row * WIDTH], group.rowOf[row]! * 10)
          seen.push([group.rowOf[row], group.pickExpert[i], group.pickWeight[i]].join())
        })
        const call = callOf(work, group, { model: '00'.repeat(32), priority: 0, deadlineMs: 1000, combine: true, rowType: 'f32' })
        assert.deepEqual(decodeCall(Buffer.concat(encodeCall(call))), call)
      }
      const { pickRow, pickExpert, pickWeight } = work.picks
      const all = Array.from(pickRow, (row, i) => [row, pickExpert[i], pickWeight[i]].join())
      assert.deepEqual(seen.sort(), all.sort())
    }),
  )
})
