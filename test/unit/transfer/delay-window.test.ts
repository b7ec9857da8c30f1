import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DelayWindow, TARGET_DELAY_MS } from '../../../node/transfer/delay-window.ts'

test('grows while answers are quick, up to a limit', () => {
  const window = new DelayWindow()
  const first = window.size
  for (let i = 0; i < 100; i++) window.answered(20)
  assert.ok(window.size > first)
  const most = window.size
  for (let i = 0; i < 1000; i++) window.answered(20)
  assert.equal(window.size, most)
})

test('shrinks to one while a queue builds up, and grows again when it is gone', () => {
  const window = new DelayWindow()
  for (let i = 0; i < 50; i++) window.answered(20)
  const wide = window.size
  for (let i = 0; i < wide; i++) window.answered(20 + TARGET_DELAY_MS * 2)
  assert.ok(window.size < wide)
  assert.ok(window.size > wide / 3, 'the answers that were under way count once')
  for (let i = 0; i < 200; i++) window.answered(20 + TARGET_DELAY_MS * 2)
  assert.equal(window.size, 1)
  for (let i = 0; i < 200; i++) window.answered(20)
  assert.ok(window.size > 5)
})

test('a link that has become slower for good is used again', () => {
  const window = new DelayWindow()
  window.answered(20)
  for (let i = 0; i < 2_000; i++) window.answered(200)
  assert.ok(window.size > 5)
})
