import assert from 'node:assert/strict'
import { test } from 'node:test'
import { SharedBlocks, type SharedBlock } from '../../../node/engine/shared-blocks.ts'

test('reuses blocks of the same size class', () => {
  const blocks = new SharedBlocks(() => assert.fail('nothing is dropped'))
  const first = blocks.take(100_000)
  assert.ok(first.memory.byteLength >= 100_000)
  const second = blocks.take(100_000)
  assert.notEqual(first, second)
  blocks.give(first)
  assert.equal(blocks.take(120_000), first)
  assert.notEqual(blocks.take(10), second)
})

test('lets go of what would exceed the memory kept for reuse', () => {
  const dropped: SharedBlock[] = []
  const blocks = new SharedBlocks((block) => dropped.push(block))
  const large = Array.from({ length: 3 }, () => blocks.take(32 * 1024 * 1024))
  for (const block of large) blocks.give(block)
  assert.deepEqual(dropped, [large[2]])
})
