import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CostModel } from '../../../node/router/cost-model.ts'
import { BULK_BYTES, LinkRates } from '../../../node/router/link-rates.ts'
import { NO_PRIOR } from '../../../node/router/host-estimate.ts'

const MEGABYTE = 1_000_000

test('the median of the latest transfers counts, and small ones do not', () => {
  const rates = new LinkRates()
  assert.equal(rates.bytesPerSecond('a'), null)
  rates.transferred('a', BULK_BYTES - 1, 1)
  assert.equal(rates.bytesPerSecond('a'), null)
  for (const ms of [100, 100, 5_000]) rates.transferred('a', MEGABYTE, ms)
  assert.equal(rates.bytesPerSecond('a'), 10 * MEGABYTE)
  rates.forget('a')
  assert.equal(rates.bytesPerSecond('a'), null)
})

test('a call with many rows tells the rate of a link, and leaves its round trip alone', () => {
  const rates = new LinkRates()
  const costs = new CostModel(() => 0, null, rates)
  costs.succeeded('a', { latencyUs: 10_000, queueUs: 0, computeUs: 0, picks: 1, bytes: 2_000 })
  costs.succeeded('a', { latencyUs: 310_000, queueUs: 50_000, computeUs: 150_000, picks: 100, bytes: MEGABYTE })
  assert.equal(Math.round(rates.bytesPerSecond('a')!), 10 * MEGABYTE)
  assert.equal(costs.cost('a', false, NO_PRIOR).overheadUs, 10_000)
  assert.equal(Math.round(costs.transferUs('a', 2 * MEGABYTE)), 200_000)
  // A token's row is part of the round trip that was measured.
  assert.equal(costs.transferUs('a', 4_096), 0)
  costs.relinked('a')
  assert.equal(costs.transferUs('a', 2 * MEGABYTE), 0)
})

test('the first call counts as round trip, however large: nothing else is known', () => {
  const costs = new CostModel(() => 0)
  costs.succeeded('a', { latencyUs: 10_000, queueUs: 0, computeUs: 0, picks: 1, bytes: MEGABYTE })
  assert.equal(costs.cost('a', false, NO_PRIOR).overheadUs, 10_000)
})
