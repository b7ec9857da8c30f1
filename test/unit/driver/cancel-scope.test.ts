import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CancelScope } from '../../../node/driver/cancel-scope.ts'

/** Remembers what it was cancelled with. */
function recorder() {
  const reasons: Error[] = []
  return { reasons, cancel: (reason: Error) => void reasons.push(reason) }
}

const FIRST = new Error('first')
const SECOND = new Error('second')

test('cancels its members and inner scopes once, with the first reason', () => {
  const [outer, inner] = [new CancelScope(), new CancelScope()]
  const [member, nested] = [recorder(), recorder()]
  outer.add(member)
  outer.add(inner)
  inner.add(nested)
  outer.throwIfCancelled()
  assert.equal(outer.isCancelled, false)
  outer.cancel(FIRST)
  outer.cancel(SECOND)
  assert.deepEqual([member.reasons, nested.reasons], [[FIRST], [FIRST]])
  assert.ok(outer.isCancelled && inner.isCancelled)
  assert.throws(() => inner.throwIfCancelled(), FIRST)
})

test('an inner scope ends without the outer one', () => {
  const [outer, inner] = [new CancelScope(), new CancelScope()]
  const member = recorder()
  outer.add(member)
  outer.add(inner)
  inner.cancel(FIRST)
  assert.equal(outer.isCancelled, false)
  assert.deepEqual(member.reasons, [])
})

test('what has left is spared, what comes late is cancelled at once', () => {
  const scope = new CancelScope()
  const [early, late] = [recorder(), recorder()]
  scope.add(early)
  scope.delete(early)
  scope.cancel(FIRST)
  scope.add(late)
  assert.deepEqual([early.reasons, late.reasons], [[], [FIRST]])
})

test('its signal fires with it, whichever was first', () => {
  const [before, after] = [new CancelScope(), new CancelScope()]
  const { signal } = before
  assert.equal(signal.aborted, false)
  before.cancel(FIRST)
  after.cancel(SECOND)
  assert.equal(signal.reason, FIRST)
  assert.equal(before.signal, signal)
  assert.equal(after.signal.reason, SECOND)
})
