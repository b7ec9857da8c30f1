import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RoutingCounts } from '../../../node/driver/routing-counts.ts'

/** One row's experts. */
const row = (...experts: number[]): Int32Array => Int32Array.from(experts)

test('each choice counts for its expert of its layer, and each pair of a row once', () => {
  const counts = new RoutingCounts()
  counts.open('m', 2, 3)
  counts.add('m', 0, row(2, 0), 1)
  counts.add('m', 1, row(0, 1, 1, 0, 2, 0), 3)
  assert.deepEqual(
    counts.take(),
    new Map([
      [
        'm',
        {
          layers: 2,
          experts: 3,
          counts: Float64Array.of(1, 0, 1, 3, 2, 1),
          pairs: [
            new Map([[2, 1]]),
            new Map([
              [1, 2],
              [2, 1],
            ]),
          ],
        },
      ],
    ]),
  )
})

test('of a long batch a few rows speak for all, and rare pairs are forgotten', () => {
  const counts = new RoutingCounts()
  counts.open('m', 1, 4096)
  counts.add(
    'm',
    0,
    Int32Array.from({ length: 200 }, (_, i) => i % 2),
    100,
  )
  for (let i = 2; i < 4000; i++) counts.add('m', 0, row(0, i), 1)
  const { pairs } = counts.take().get('m')!
  assert.equal(pairs[0]!.get(1), 100)
  assert.ok(pairs[0]!.size <= 2048)
})

test('what was taken is not taken again, and what comes later does not change it', () => {
  const counts = new RoutingCounts()
  counts.open('m', 1, 2)
  counts.add('m', 0, row(1), 1)
  const taken = counts.take().get('m')!
  assert.deepEqual(counts.take(), new Map())
  counts.add('m', 0, row(0), 1)
  assert.deepEqual([...taken.counts], [0, 1])
  assert.deepEqual([...counts.take().get('m')!.counts], [1, 0])
})

test('models count apart; one that was not used or not opened is not reported', () => {
  const counts = new RoutingCounts()
  for (const model of ['a', 'b', 'c']) counts.open(model, 1, 1)
  counts.add('a', 0, row(0), 1)
  counts.add('b', 0, row(0, 0), 2)
  counts.add('stranger', 0, row(0), 1)
  assert.deepEqual(
    [...counts.take()].map(([model, rows]) => [model, ...rows.counts]),
    [
      ['a', 1],
      ['b', 2],
    ],
  )
})
