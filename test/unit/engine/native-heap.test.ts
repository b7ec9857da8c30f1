import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { test } from 'node:test'
import { reusingFreedBuffers } from '../../../node/engine/native-heap.ts'
import { until } from '../../helpers/until.ts'

const BUFFER_BYTES = 4 * 2 ** 20
const BUFFERS = 32

function residentBytes(): number {
  return 1024 * Number(/^VmRSS:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))![1])
}

test('what is freed while it acts can be reused, and goes back to the system soon after', async (t) => {
  if (process.platform !== 'linux') return t.skip('glibc is asked, which only Linux has')
  const koffi = createRequire(import.meta.url)('koffi') as typeof import('koffi')
  const libc = koffi.load('libc.so.6')
  const malloc = libc.func('void *malloc(size_t bytes)')
  const fill = libc.func('void *memset(void *at, int value, size_t bytes)')
  const free = libc.func('void free(void *at)')
  const before = residentBytes()
  await reusingFreedBuffers(async () => {
    const buffers = Array.from({ length: BUFFERS }, () => malloc(BUFFER_BYTES) as unknown)
    // What stays lies behind them, as sessions lie behind the buffers that made them: the heap can't shrink from its end.
    const stays: unknown = malloc(BUFFER_BYTES)
    for (const buffer of buffers) fill(buffer, 1, BUFFER_BYTES)
    for (const buffer of buffers) free(buffer)
    assert.ok(residentBytes() - before > (BUFFERS * BUFFER_BYTES) / 2, 'they are kept')
    t.after(() => free(stays))
  })
  await until(() => residentBytes() - before < (BUFFERS * BUFFER_BYTES) / 8, { what: 'the memory goes back' })
})

test('it resolves and rejects as the act does', async () => {
  assert.equal(await reusingFreedBuffers(async () => 7), 7)
  await assert.rejects(
    reusingFreedBuffers(async () => Promise.reject(new Error('the disk is gone'))),
    /the disk is gone/,
  )
})
