import assert from 'node:assert/strict'
import { test } from 'node:test'
import { phaseAt } from '../../../../node/net/punch/tcp-punch.ts'

test('phases follow one another and begin again', () => {
  assert.deepEqual(phaseAt(0), ['together', 1_500])
  assert.deepEqual(phaseAt(1_499), ['together', 1])
  assert.deepEqual(phaseAt(1_500), ['responderListens', 700])
  assert.deepEqual(phaseAt(2_200), ['initiatorListens', 700])
  assert.deepEqual(phaseAt(2_900), ['together', 1_500])
  assert.deepEqual(phaseAt(29_000), ['together', 1_500])
})
