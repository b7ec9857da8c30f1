import assert from 'node:assert/strict'
import { test } from 'node:test'
import { TransferPace } from '../../../node/transfer/transfer-pace.ts'

test('bytes pass at once while no calls are under way, and are spread out while there are', () => {
  let now = 1000
  let isBusy = false
  const pace = new TransferPace({ isBusy: () => isBusy, bytesPerSecond: 1000, now: () => now })
  assert.deepEqual([pace.claim(5_000), pace.claim(5_000)], [0, 0])
  isBusy = true
  assert.deepEqual([pace.claim(100), pace.claim(100), pace.claim(100)], [0, 100, 200])
  now += 250
  assert.equal(pace.claim(100), 50)
  now += 10_000
  assert.equal(pace.claim(100), 0, 'time that nobody used is not saved up')
  isBusy = false
  assert.equal(pace.claim(100), 0)
})
