import assert from 'node:assert/strict'
import { setImmediate as turn } from 'node:timers/promises'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { repeat } from '../../node/repeat.ts'

function setUp(t: TestContext) {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const stopping = new AbortController()
  const errors: Error[] = []
  const init = { intervalMs: 100, signal: stopping.signal, onError: (error: Error) => void errors.push(error) }
  const pass = async (ms: number): Promise<void> => {
    t.mock.timers.tick(ms)
    await turn()
  }
  return { init, stopping, errors, pass }
}

test('a task runs once per interval, the first time after one', async (t) => {
  const { init, pass } = setUp(t)
  let runs = 0
  repeat(() => void runs++, init)
  await pass(99)
  assert.equal(runs, 0)
  await pass(1)
  assert.equal(runs, 1)
  await pass(100)
  assert.equal(runs, 2)
})

test('a run that takes longer than the interval is never overlapped', async (t) => {
  const { init, pass } = setUp(t)
  let runs = 0
  let ended = Promise.withResolvers<void>()
  repeat(() => {
    runs++
    return ended.promise
  }, init)
  await pass(100)
  await pass(1000)
  assert.equal(runs, 1)
  ended.resolve()
  ended = Promise.withResolvers()
  await turn()
  await pass(100)
  assert.equal(runs, 2)
})

test('a run that fails is reported, thrown or rejected, and the next follows', async (t) => {
  const { init, errors, pass } = setUp(t)
  const failures = [
    () => {
      throw new Error('thrown')
    },
    () => Promise.reject(new Error('rejected')),
    () => {},
  ]
  let runs = 0
  repeat(() => failures[runs++]!(), init)
  for (let i = 0; i < 3; i++) await pass(100)
  assert.deepEqual(
    errors.map((error) => error.message),
    ['thrown', 'rejected'],
  )
  assert.equal(runs, 3)
})

test('after the signal nothing runs, whether it fires between runs or during one', async (t) => {
  const between = setUp(t)
  let runs = 0
  repeat(() => void runs++, between.init)
  await between.pass(100)
  between.stopping.abort(new Error('stopped'))
  await between.pass(1000)
  assert.equal(runs, 1)

  const stopping = new AbortController()
  repeat(
    () => {
      runs++
      stopping.abort(new Error('stopped'))
    },
    { ...between.init, signal: stopping.signal },
  )
  await between.pass(100)
  await between.pass(1000)
  assert.equal(runs, 2)

  repeat(() => void runs++, { ...between.init, signal: AbortSignal.abort(new Error('stopped before')) })
  await between.pass(1000)
  assert.equal(runs, 2)
})
