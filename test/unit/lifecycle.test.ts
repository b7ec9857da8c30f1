import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Lifecycle } from '../../node/lifecycle.ts'

test('what was started stops in reverse, once, and a part that fails holds up no other', async () => {
  const events: string[] = []
  const failures: string[] = []
  const life = new Lifecycle((part, error) => failures.push(`${part}: ${error.message}`))
  const part = (name: string, fails = false) => ({
    start: () => void events.push(`start ${name}`),
    stop: () => {
      events.push(`stop ${name}`)
      if (fails) throw new Error('stuck')
    },
  })
  await life.start('first', part('first'))
  await life.start('second', part('second', true))
  life.onStop('third', async () => void events.push('undo third'))
  assert.equal(life.signal.aborted, false)
  await Promise.all([life.stop(), life.stop()])
  assert.deepEqual(events, ['start first', 'start second', 'undo third', 'stop second', 'stop first'])
  assert.deepEqual(failures, ['second: stuck'])
  assert.equal(life.signal.aborted, true)
})

test('a part that could not start is not stopped', async () => {
  const life = new Lifecycle(() => assert.fail('nothing was to be stopped'))
  const part = { start: () => Promise.reject(new Error('no')), stop: () => assert.fail('it never started') }
  await assert.rejects(life.start('part', part), /no/)
  await life.stop()
})
