import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CostModel } from '../../../node/router/cost-model.ts'
import { NO_PRIOR, TRUST_HALF_LIFE_MS } from '../../../node/router/host-estimate.ts'
import type { CallSample } from '../../../node/router/cost-model.ts'

const NOTHING = NO_PRIOR

/** A model whose clock, in milliseconds, the test sets. */
function setUp() {
  const clock = { nowMs: 1_000_000 }
  return { clock, costs: new CostModel(() => clock.nowMs) }
}

const sample = (fields: Partial<CallSample> = {}): CallSample => ({ latencyUs: 1000, queueUs: 0, computeUs: 0, picks: 1, ...fields })

test('a host never called costs what its own report says, else a guess; this node itself no round trip', () => {
  const { costs } = setUp()
  const guess = costs.cost('a', false, NOTHING)
  assert.ok(guess.overheadUs > 0 && guess.perPickUs > 0)
  assert.equal(costs.cost('a', false, { ...NO_PRIOR, serviceUs: 77 }).perPickUs, 77)
  assert.equal(costs.cost('self', true, NOTHING).overheadUs, 0)
})

test('the first measurement counts in full: overhead is what neither queue nor compute explains', () => {
  const { costs } = setUp()
  costs.succeeded('a', sample({ latencyUs: 1000, queueUs: 200, computeUs: 500, picks: 5 }))
  assert.deepEqual(costs.cost('a', false, NOTHING), { peer: 'a', local: false, overheadUs: 300, queueUs: 200, perPickUs: 100 })
})

test('the median of the last nine measurements counts: a stray one changes nothing, a lasting change prevails', () => {
  const { costs } = setUp()
  const overhead = () => costs.cost('a', false, NOTHING).overheadUs
  for (let i = 0; i < 9; i++) costs.succeeded('a', sample({ latencyUs: 1000 + i }))
  assert.equal(overhead(), 1004)
  costs.succeeded('a', sample({ latencyUs: 90_000 }))
  assert.equal(overhead(), 1005)
  for (let i = 0; i < 4; i++) costs.succeeded('a', sample({ latencyUs: 5000 }))
  assert.equal(overhead(), 5000)
})

test('an estimate that is not renewed falls, so that the host is tried again; that of this node stays', () => {
  const { costs, clock } = setUp()
  for (const peer of ['a', 'self']) costs.succeeded(peer, sample({ latencyUs: 1000, queueUs: 400, computeUs: 100 }))
  clock.nowMs += TRUST_HALF_LIFE_MS
  assert.deepEqual(costs.cost('a', false, NOTHING), { peer: 'a', local: false, overheadUs: 250, queueUs: 200, perPickUs: 100 })
  assert.deepEqual(costs.cost('self', true, NOTHING), { peer: 'self', local: true, overheadUs: 500, queueUs: 400, perPickUs: 100 })
})

test('a host that was never measured but failed or was busy is not hoped for', () => {
  const { costs } = setUp()
  const unknown = costs.cost('nobody', false, NOTHING)
  costs.failed('failing')
  costs.busy('busy', 10)
  for (const peer of ['failing', 'busy']) assert.deepEqual(costs.cost(peer, false, NOTHING), { ...unknown, peer })
})

test('a host whose clocks claim more than the call took has no negative cost', () => {
  const { costs } = setUp()
  costs.succeeded('liar', sample({ latencyUs: 1000, queueUs: 0xffff_ffff, computeUs: 0xffff_ffff, picks: 0 }))
  const { overheadUs, queueUs, perPickUs } = costs.cost('liar', false, NOTHING)
  assert.equal(overheadUs, 0)
  assert.ok(queueUs > 1e9 && perPickUs > 1e9)
})

test('each failure in a row doubles the backoff, from 15 seconds up to 15 minutes; a success ends it', () => {
  const { costs, clock } = setUp()
  const seconds: number[] = []
  for (let i = 0; i < 2000; i++) {
    costs.failed('a')
    if (i < 8) seconds.push(costs.backoffMs('a') / 1000)
  }
  assert.deepEqual(seconds, [15, 30, 60, 120, 240, 480, 900, 900])
  assert.equal(costs.backoffMs('a'), 900_000)
  clock.nowMs += 899_999
  assert.equal(costs.backoffMs('a'), 1)
  clock.nowMs += 2
  assert.equal(costs.backoffMs('a'), 0)
  costs.failed('a')
  costs.succeeded('a', sample())
  assert.equal(costs.backoffMs('a'), 0)
  costs.failed('a')
  assert.equal(costs.backoffMs('a'), 15_000)
  assert.equal(costs.backoffMs('stranger'), 0)
})

test('a probe measures a host but ends no backoff; failures are too old to count 15 minutes after the last one', () => {
  const { costs, clock } = setUp()
  for (const backoffMs of [15_000, 30_000]) {
    costs.failed('a')
    costs.probed('a', sample())
    assert.equal(costs.backoffMs('a'), backoffMs)
    assert.equal(costs.ageMs('a'), 0)
    clock.nowMs += backoffMs
    costs.probed('a', sample())
  }
  clock.nowMs += 900_000
  costs.failed('a')
  assert.equal(costs.backoffMs('a'), 60_000)
  clock.nowMs += 60_000 + 900_001
  costs.failed('a')
  assert.equal(costs.backoffMs('a'), 15_000)
})

test('a busy host is left alone as long as it asks, but not for long, and does not end a backoff', () => {
  const { costs, clock } = setUp()
  costs.busy('a', 120)
  assert.equal(costs.backoffMs('a'), 120)
  costs.busy('a', 0xffff_ffff)
  assert.equal(costs.backoffMs('a'), 5000)
  costs.failed('b')
  costs.busy('b', 10)
  assert.equal(costs.backoffMs('b'), 15_000)
  clock.nowMs += 5000
  costs.failed('a')
  assert.equal(costs.backoffMs('a'), 15_000, 'to be busy is no failure')
})

test('a host that is forgiven starts afresh, with its measurements', () => {
  const { costs } = setUp()
  costs.succeeded('a', sample())
  for (let i = 0; i < 3; i++) costs.failed('a')
  costs.forgive('a')
  costs.forgive('stranger')
  assert.equal(costs.backoffMs('a'), 0)
  assert.equal(costs.cost('a', false, NOTHING).overheadUs, 1000)
  costs.failed('a')
  assert.equal(costs.backoffMs('a'), 15_000)
})

test('a measurement has an age, a host without one is infinitely stale', () => {
  const { costs, clock } = setUp()
  assert.equal(costs.ageMs('a'), Infinity)
  costs.failed('a')
  assert.equal(costs.ageMs('a'), Infinity)
  costs.succeeded('a', sample())
  clock.nowMs += 42
  assert.equal(costs.ageMs('a'), 42)
})

test('successes and failures are counted', () => {
  const { costs } = setUp()
  costs.succeeded('a', sample())
  costs.succeeded('a', sample())
  costs.failed('a')
  assert.deepEqual(costs.counts('a'), { succeeded: 2, failed: 1, overheadUs: 1000 })
  assert.deepEqual(costs.counts('stranger'), { succeeded: 0, failed: 0, overheadUs: null })
})

test('however many hosts come and go, only so many are remembered', () => {
  const { costs } = setUp()
  for (let i = 0; i <= 4096; i++) costs.failed(`peer ${i}`)
  assert.equal(costs.counts('peer 0').failed, 0)
  assert.equal(costs.counts('peer 1').failed, 1)
  assert.equal(costs.counts('peer 4096').failed, 1)
})

test('a host that is reached in another way is measured anew', () => {
  const { costs } = setUp()
  for (let i = 0; i < 9; i++) costs.succeeded('a', sample({ latencyUs: 2_600_000 }))
  costs.failed('a')
  costs.relinked('a')
  assert.equal(costs.backoffMs('a'), 0)
  costs.succeeded('a', sample({ latencyUs: 15_000 }))
  assert.equal(costs.cost('a', false, NOTHING).overheadUs, 15_000)
})
