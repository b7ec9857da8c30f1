import assert from 'node:assert/strict'
import { test } from 'node:test'
import { sketchCount, sketchQuantile } from '../../../crdt/index.ts'
import { decodeTopic, encodeTopic } from '../../../crdt/topic-codec.ts'
import { Experience } from '../../../node/driver/experience.ts'
import { keyNumber, peerOf } from '../../helpers/ledger.ts'

const DAY_MS = 24 * 3_600_000
const PEERS = await Promise.all(Array.from({ length: 40 }, async (_, n) => peerOf(await keyNumber(n))))
const [SELF, ADA, BOB] = PEERS as [string, string, string]

function setUp() {
  const clock = { nowMs: 0 }
  const now = (): number => clock.nowMs
  return { clock, now, experience: new Experience({ self: SELF, now }) }
}

test('what happened with a peer is stated, as peers will read it', () => {
  const { experience } = setUp()
  for (let i = 0; i < 100; i++) experience.answered(ADA, 10_000, 4_000)
  experience.failed(ADA)
  experience.notHeld(BOB)
  experience.audited(BOB, true)
  experience.audited(BOB, false)
  experience.answered(SELF, 1, 1)
  const value = decodeTopic('observed', encodeTopic('observed', experience.value()))!
  assert.deepEqual(new Set(value.keys()), new Set([ADA, BOB]))
  const { latency, ...ada } = value.get(ADA)!
  assert.deepEqual(ada, { rttUs: 4_000, calls: 100, failures: 1, notHeld: 0, auditsPassed: 0, auditsFailed: 0 })
  assert.equal(sketchCount(latency), 100)
  assert.ok(Math.abs(sketchQuantile(latency, 0.5)! - 10_000) <= 500)
  const { latency: none, ...bob } = value.get(BOB)!
  assert.deepEqual(bob, { rttUs: 0, calls: 0, failures: 0, notHeld: 1, auditsPassed: 1, auditsFailed: 1 })
  assert.equal(sketchCount(none), 0)
  assert.equal(experience.of(BOB).notHeld, 1)
})

test('evidence fades by half in a day', () => {
  const { experience, clock } = setUp()
  for (let i = 0; i < 8; i++) experience.notHeld(ADA)
  clock.nowMs += 2 * DAY_MS
  assert.equal(experience.value().get(ADA)!.notHeld, 2)
  clock.nowMs += 4 * DAY_MS
  assert.equal(experience.value().size, 0)
})

test('a restart goes on with what was stated, but for what it has seen itself since', () => {
  const { experience, now } = setUp()
  for (let i = 0; i < 5; i++) experience.notHeld(ADA)
  experience.answered(BOB, 2_000, 1_000)
  const again = new Experience({ self: SELF, now })
  again.answered(BOB, 9_000, 5_000)
  again.restore(experience.value())
  assert.equal(again.of(ADA).notHeld, 5)
  assert.equal(again.value().get(BOB)!.rttUs, 5_000)
})

test('of many peers the worst and the busiest are stated', () => {
  const { experience } = setUp()
  PEERS.slice(1).forEach((peer, i) => {
    for (let calls = 0; calls <= i; calls++) experience.answered(peer, 1_000, 500)
  })
  experience.failed(ADA)
  const value = experience.value()
  assert.equal(value.size, 24)
  assert.ok(value.has(ADA) && value.has(PEERS.at(-1)!) && !value.has(BOB))
})

test('however many peers there are, only the last 1,024 are remembered', () => {
  const { experience } = setUp()
  for (let i = 0; i <= 1024; i++) experience.failed(`peer ${i}`)
  assert.equal(experience.of('peer 0').failures, 0)
  assert.equal(experience.of('peer 1').failures, 1)
})
