import assert from 'node:assert/strict'
import { test } from 'node:test'
import { ServiceTimes } from '../../../node/host/service-times.ts'

test('there are no quantiles before the first call', () => {
  assert.equal(new ServiceTimes().quantiles(), null)
})

test('the quantiles of a hundred calls are their 50th and 95th, whatever the order', () => {
  const times = new ServiceTimes()
  for (let i = 0; i < 100; i++) times.add(((i * 37) % 100) + 0.4)
  assert.deepEqual(times.quantiles(), { p50Us: 50, p95Us: 95 })
})

test('one call is its own quantiles', () => {
  const times = new ServiceTimes()
  times.add(7)
  assert.deepEqual(times.quantiles(), { p50Us: 7, p95Us: 7 })
})

test('only the last 512 calls count', () => {
  const times = new ServiceTimes()
  for (let i = 0; i < 512; i++) times.add(1_000_000)
  for (let i = 0; i < 512; i++) times.add(3)
  assert.deepEqual(times.quantiles(), { p50Us: 3, p95Us: 3 })
})
