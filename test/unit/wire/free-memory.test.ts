import assert from 'node:assert/strict'
import { test } from 'node:test'
import { freeMemory } from '../../../protocols/wire/free-memory.ts'

test('freed memory is gone at once, shared memory stays', () => {
  const numbers = new Float32Array(1000)
  const view = numbers.subarray(10, 20)
  freeMemory(view)
  assert.equal(numbers.length, 0)
  assert.equal(numbers.buffer.detached, true)
  freeMemory(numbers)
  const shared = new Float32Array(new SharedArrayBuffer(40))
  freeMemory(shared)
  assert.equal(shared.length, 10)
})
