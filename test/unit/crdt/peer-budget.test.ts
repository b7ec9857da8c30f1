import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PeerBudget } from '../../../crdt/peer-budget.ts'

function setUp() {
  const clock = { nowMs: 1_000_000 }
  return { clock, budget: new PeerBudget(() => clock.nowMs) }
}

test('a peer may send a burst, and then so many per second', () => {
  const { clock, budget } = setUp()
  let spent = 0
  while (budget.spend('a')) spent++
  assert.equal(spent, 512)
  assert.equal(budget.spend('b'), true, 'others are not held back')
  clock.nowMs += 1_000
  spent = 0
  while (budget.spend('a')) spent++
  assert.equal(spent, 64)
})

test('a peer with too many faults is ignored for ten minutes', () => {
  const { clock, budget } = setUp()
  for (let i = 0; i < 8; i++) budget.fault('a')
  assert.equal(budget.spend('a'), true)
  budget.fault('a')
  assert.equal(budget.isIgnored('a'), true)
  assert.equal(budget.spend('a'), false)
  assert.equal(budget.isIgnored('b'), false)
  clock.nowMs += 600_001
  assert.equal(budget.spend('a'), true)
})

test('of very many peers the longest silent is forgotten', () => {
  const { budget } = setUp()
  for (let i = 0; i < 9; i++) budget.fault('bad')
  for (let i = 0; i < 1_000; i++) budget.spend(`peer ${i}`)
  assert.equal(budget.isIgnored('bad'), true)
  for (let i = 0; i < 1_024; i++) budget.spend(`other ${i}`)
  assert.equal(budget.isIgnored('bad'), false)
})
