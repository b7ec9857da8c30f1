import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { DEFAULTS } from '../../../crdt/defaults.ts'
import { PublishSchedule } from '../../../crdt/publish-schedule.ts'
import { LIMITS } from '../../../protocols/ledger/protocol.ts'

const schedule = (authors: number, bytes: number): PublishSchedule =>
  new PublishSchedule(DEFAULTS, { liveAuthors: () => authors, envelopeBytes: () => bytes })

/** Time between two heartbeats, or two envelopes with new statistics. */
function interval(authors: number, bytes: number, topics: readonly 'routing'[] = []): number {
  const one = schedule(authors, bytes)
  one.publishing(0)
  return one.nextMs(topics)
}

test('a small swarm is told at once', () => {
  assert.equal(interval(4, 600), DEFAULTS.heartbeatMs)
  assert.equal(interval(4, 600, ['routing']), DEFAULTS.statisticsIntervalMs)
  assert.equal(schedule(4, 600).ttlMs(), DEFAULTS.ttlMs)
})

test('whatever the authors of a large swarm state, together they bring a node no more than 250 bytes per second, each twice', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: 200, max: 8_000 }), { minLength: 64, maxLength: 300 }), fc.boolean(), (sizes, busy) => {
      const rate = sizes.reduce((sum, bytes) => sum + bytes / (interval(sizes.length, bytes, busy ? ['routing'] : []) / 1000), 0)
      const atLongest = sizes.every((bytes) => interval(sizes.length, bytes) < LIMITS.maxTtlMs / 2)
      assert.ok(!atLongest || rate <= 250, `${rate} B/s`)
    }),
  )
})

test('a record lives three heartbeats, but no longer than peers allow, and is renewed within half of that', () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 4096 }), fc.integer({ min: 200, max: 60_000 }), (authors, bytes) => {
      const one = schedule(authors, bytes)
      const ttlMs = one.publishing(0)
      const next = one.nextMs([])
      assert.ok(ttlMs <= LIMITS.maxTtlMs && next <= ttlMs / 2)
      assert.ok(ttlMs === LIMITS.maxTtlMs || Math.abs(ttlMs - 3 * next) <= 3)
      assert.equal(one.nextMs(['holdings']), DEFAULTS.minPublishIntervalMs)
    }),
  )
})
