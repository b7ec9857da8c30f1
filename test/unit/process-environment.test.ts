import assert from 'node:assert/strict'
import { describe, it } from 'node:test'
import { withProcessSettings } from '../../node/process-environment.ts'

describe('withProcessSettings', () => {
  it('adds to the environment what is not there', () => {
    const env = withProcessSettings({ HOME: '/home/a' })
    assert.equal(env['HOME'], '/home/a')
    assert.equal(env['NODE_OPTIONS'], '--max-semi-space-size=8')
    assert.match(env['NODE_COMPILE_CACHE']!, /skein$/)
  })

  it('keeps what the user has set, and changes nothing the second time, which would start the program for ever', () => {
    const set = { NODE_OPTIONS: '--enable-source-maps', NODE_COMPILE_CACHE: '/tmp/cache', GLIBC_TUNABLES: 'glibc.malloc.arena_max=1' }
    const env = withProcessSettings(set)
    assert.deepEqual(env, { ...set, NODE_OPTIONS: '--max-semi-space-size=8 --enable-source-maps' })
    assert.deepEqual(withProcessSettings(env), env)
    const own = { ...set, NODE_OPTIONS: '--max-semi-space-size=64' }
    assert.deepEqual(withProcessSettings(own), own)
  })
})
