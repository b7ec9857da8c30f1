import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RoutingCounts } from '../../../node/driver/routing-counts.ts'

test('each pick counts for its expert of its layer', () => {
  const counts = new RoutingCounts()
  counts.open('m', 2, 3)
  counts.add('m', 0, Uint16Array.of(0, 2, 2))
  counts.add('m', 1, Uint16Array.of(0))
  counts.add('m', 1, Uint16Array.of(0, 1))
  assert.deepEqual(counts.take(), new Map([['m', { layers: 2, experts: 3, counts: Float64Array.of(1, 0, 2, 2, 1, 0) }]]))
})

test('what was taken is not taken again, and what comes later does not change it', () => {
  const counts = new RoutingCounts()
  counts.open('m', 1, 2)
  counts.add('m', 0, Uint16Array.of(1))
  const taken = counts.take().get('m')!
  assert.deepEqual(counts.take(), new Map())
  counts.add('m', 0, Uint16Array.of(0))
  assert.deepEqual([...taken.counts], [0, 1])
  assert.deepEqual([...counts.take().get('m')!.counts], [1, 0])
})

test('models count apart; one that was not used or not opened is not reported', () => {
  const counts = new RoutingCounts()
  for (const model of ['a', 'b', 'c']) counts.open(model, 1, 1)
  counts.add('a', 0, Uint16Array.of(0))
  counts.add('b', 0, Uint16Array.of(0, 0))
  counts.add('stranger', 0, Uint16Array.of(0))
  assert.deepEqual(
    [...counts.take()].map(([model, rows]) => [model, ...rows.counts]),
    [
      ['a', 1],
      ['b', 2],
    ],
  )
})
