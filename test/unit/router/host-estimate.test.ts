import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { estimateHost, NO_PRIOR, TRUST_HALF_LIFE_MS } from '../../../node/router/host-estimate.ts'
import type { HostMeasurement, HostPrior } from '../../../node/router/host-estimate.ts'

const us = fc.double({ min: 0, max: 1e8, noNaN: true })
const share = fc.double({ min: 0, max: 1, noNaN: true })
const measurement: fc.Arbitrary<HostMeasurement> = fc.record({ overheadUs: us, queueUs: us, perPickUs: us, ageMs: fc.nat(600_000) })
const prior: fc.Arbitrary<HostPrior> = fc.record({
  serviceUs: fc.option(us),
  rttUs: fc.option(us),
  reportedBadShare: share,
  calls: fc.nat(10_000),
  badCalls: fc.nat(1_000),
})
const UNMEASURED: HostMeasurement = { overheadUs: null, queueUs: null, perPickUs: null, ageMs: Infinity }
const total = (own: HostMeasurement, known: HostPrior): number => {
  const { overheadUs, queueUs, perPickUs } = estimateHost(own, known)
  return overheadUs + queueUs + perPickUs
}

test('whatever is stated, an estimate is a number of microseconds', () => {
  fc.assert(
    fc.property(fc.option(measurement), prior, (own, known) => {
      for (const value of Object.values(estimateHost(own ?? UNMEASURED, known))) assert.ok(Number.isFinite(value) && value >= 0, `${value}`)
    }),
  )
})

test('once a host was called, what it states of itself and what others measured changes nothing', () => {
  fc.assert(
    fc.property(measurement, prior, fc.option(us), fc.option(us), (own, known, serviceUs, rttUs) => {
      assert.deepEqual(estimateHost(own, { ...known, serviceUs, rttUs }), estimateHost(own, known))
    }),
  )
})

test('before that, who is said to be faster or nearer is expected to be', () => {
  fc.assert(
    fc.property(prior, us, us, (known, a, b) => {
      const [less, more] = [Math.min(a, b), Math.max(a, b)]
      assert.ok(total(UNMEASURED, { ...known, serviceUs: less }) <= total(UNMEASURED, { ...known, serviceUs: more }))
      assert.ok(total(UNMEASURED, { ...known, rttUs: less }) <= total(UNMEASURED, { ...known, rttUs: more }))
    }),
  )
})

test('failures cost, own ones the more the more there are, reported ones no more than a few own ones', () => {
  fc.assert(
    fc.property(measurement, prior, fc.integer({ min: 1, max: 100 }), (own, known, more) => {
      assert.ok(total(own, { ...known, badCalls: known.badCalls + more }) >= total(own, known))
      assert.ok(total(own, { ...known, calls: known.calls + more }) <= total(own, known))
      // After a hundred good calls slander costs less than a millisecond.
      const good = { ...NO_PRIOR, calls: 100 + more }
      assert.ok(total(own, { ...good, reportedBadShare: 1 }) - total(own, good) <= 1_000)
    }),
  )
})

test('a measurement loses half its worth in each half-life, down to where it is tried again', () => {
  fc.assert(
    fc.property(fc.double({ min: 1, max: 1e6, noNaN: true }), fc.nat(20), (overheadUs, halves) => {
      const own = { overheadUs, queueUs: overheadUs, perPickUs: 100, ageMs: halves * TRUST_HALF_LIFE_MS }
      const estimate = estimateHost(own, NO_PRIOR)
      assert.ok(Math.abs(estimate.overheadUs - overheadUs / 2 ** halves) < 1e-6)
      assert.equal(estimate.queueUs, estimate.overheadUs)
      assert.equal(estimate.perPickUs, 100)
    }),
  )
})
