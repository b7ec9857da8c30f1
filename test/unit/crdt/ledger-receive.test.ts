import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import * as Y from 'yjs'
import { bitmapOf } from '../../../crdt/index.ts'
import type { RejectionReason } from '../../../crdt/index.ts'
import { MAX_CLOCK_SKEW_MS } from '../../../crdt/defaults.ts'
import { clientIdOf } from '../../../crdt/schema.ts'
import { encodeTopic } from '../../../crdt/topic-codec.ts'
import { EnvelopeKind } from '../../../protocols/ledger/messages.ts'
import { LIMITS } from '../../../protocols/ledger/protocol.ts'
import {
  ManualClock,
  START_MS,
  createAuthor,
  envelopeOf,
  keyNumber,
  peerOf,
  published,
  seededRandom,
  updateOf,
} from '../../helpers/ledger.ts'

const profile = encodeTopic('profile', { name: 'mallory', version: '1', relayed: false })

/** A ledger that has heard of author 2, whose clock stands. */
async function setUp(t: TestContext) {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const clock = new ManualClock()
  const { ledger } = await createAuthor(1, clock)
  const other = await createAuthor(2, clock)
  t.after(() => Promise.all([ledger.stop(), other.ledger.stop()]))
  other.ledger.set('holdings', new Map([['model', [bitmapOf([1, 2])]]]))
  const good = await published(other.ledger)
  return { clock, ledger, other, good }
}

test('a record is applied once', async (t) => {
  const { ledger, other, good } = await setUp(t)
  assert.equal(await ledger.receive(good), 'applied')
  assert.equal(await ledger.receive(good), 'known')
  assert.deepEqual(ledger.view().holders('model', 0, 2), [other.ledger.author])
  assert.deepEqual(ledger.view().holders('model', 0, 3), [])
  const { received, applied, known } = ledger.stats()
  assert.deepEqual({ received, applied, known }, { received: 2, applied: 1, known: 1 })
})

test('two copies that arrive together are applied once', async (t) => {
  const { ledger, good } = await setUp(t)
  const results = await Promise.all([ledger.receive(good), ledger.receive(good)])
  assert.deepEqual(results.toSorted(), ['applied', 'known'])
})

interface Forgery {
  readonly name: string
  readonly reason: RejectionReason
  readonly make: (setting: Awaited<ReturnType<typeof setUp>>) => Promise<Uint8Array> | Uint8Array
}

const mallory = await keyNumber(66)
const victim = await keyNumber(2)

const forgeries: Forgery[] = [
  {
    name: 'a record that another key signed in the author’s name',
    reason: 'signature',
    async make() {
      const forged = Uint8Array.from(await envelopeOf(mallory, { seq: 9, update: updateOf(peerOf(victim), 'profile', profile) }))
      forged.set(victim.publicKey.raw, 2)
      return forged
    },
  },
  {
    name: 'a wrong signature',
    reason: 'signature',
    make: ({ good }) => Uint8Array.from(good, (byte, i) => (i === good.length - 1 ? byte ^ 1 : byte)),
  },
  {
    name: 'a signed record of which one bit was changed',
    reason: 'signature',
    make: ({ good }) => Uint8Array.from(good, (byte, i) => (i === good.length - 70 ? byte ^ 1 : byte)),
  },
  {
    name: 'an author’s key that is no point of the curve',
    reason: 'signature',
    make: ({ good }) => Uint8Array.from(good, (byte, i) => (i >= 2 && i < 34 ? 255 : byte)),
  },
  { name: 'a record of another swarm', reason: 'swarm', make: () => envelopeOf(mallory, { swarm: 'other' }) },
  { name: 'a truncated record', reason: 'malformed', make: ({ good }) => good.subarray(0, -1) },
  { name: 'a record with bytes after it', reason: 'malformed', make: ({ good }) => Buffer.concat([good, Buffer.of(0)]) },
  { name: 'nothing', reason: 'malformed', make: () => new Uint8Array() },
  { name: 'a life longer than allowed', reason: 'malformed', make: () => envelopeOf(mallory, { ttlMs: LIMITS.maxTtlMs + 1 }) },
  { name: 'an envelope before its epoch', reason: 'malformed', make: () => envelopeOf(mallory, { epoch: START_MS + 1 }) },
  {
    name: 'a goodbye with a document',
    reason: 'malformed',
    make: () => envelopeOf(mallory, { kind: EnvelopeKind.goodbye, update: updateOf(peerOf(mallory), 'profile', profile) }),
  },
  { name: 'another version', reason: 'version', make: ({ good }) => Uint8Array.from(good, (byte, i) => (i === 0 ? 2 : byte)) },
  { name: 'an oversized record', reason: 'oversized', make: () => new Uint8Array(LIMITS.maxEnvelopeBytes + 1) },
  {
    name: 'a record from the future',
    reason: 'future',
    make: () => envelopeOf(mallory, { createdMs: START_MS + MAX_CLOCK_SKEW_MS + 1 }),
  },
  {
    name: 'a record whose time is over',
    reason: 'expired',
    make: () => envelopeOf(mallory, { epoch: 1, createdMs: START_MS - 30_000 - MAX_CLOCK_SKEW_MS }),
  },
  {
    name: 'a value written under a foreign client id',
    reason: 'foreign-client',
    make: () => envelopeOf(mallory, { update: updateOf(peerOf(victim), 'profile', profile) }),
  },
  {
    name: 'the deletion of what another client wrote',
    reason: 'foreign-client',
    make() {
      const client = clientIdOf(peerOf(mallory), START_MS, 'profile')
      const foreign = new Y.Doc()
      foreign.clientID = 7
      foreign.getMap('skein').set('x', 1)
      foreign.getMap('skein').delete('x')
      const own = new Y.Doc()
      own.clientID = client
      own.getMap('skein').set('profile', profile)
      Y.applyUpdate(own, Y.encodeStateAsUpdate(foreign))
      // Only the delete set of the foreign client, not its structs.
      const update = Y.diffUpdate(Y.encodeStateAsUpdate(own), Y.encodeStateVector(foreign))
      return envelopeOf(mallory, { update })
    },
  },
  {
    name: 'a value in another root',
    reason: 'foreign-root',
    make: () => envelopeOf(mallory, { update: updateOf(peerOf(mallory), 'profile', profile, { root: 'other' }) }),
  },
  {
    name: 'a value that is not bytes',
    reason: 'update',
    make: () => envelopeOf(mallory, { update: updateOf(peerOf(mallory), 'profile', 'me') }),
  },
  {
    name: 'a nested document',
    reason: 'update',
    make: () => envelopeOf(mallory, { update: updateOf(peerOf(mallory), 'profile', new Y.Doc()) }),
  },
  { name: 'bytes that are no update', reason: 'update', make: () => envelopeOf(mallory, { update: Uint8Array.of(1, 200, 1, 4) }) },
  {
    name: 'part of a document',
    reason: 'update',
    make() {
      const doc = new Y.Doc()
      doc.clientID = clientIdOf(peerOf(mallory), START_MS, 'profile')
      doc.getMap('skein').set('profile', profile)
      const before = Y.encodeStateVector(doc)
      doc.getMap('skein').set('profile', profile)
      return envelopeOf(mallory, { update: Y.encodeStateAsUpdate(doc, before) })
    },
  },
  {
    name: 'more topics than allowed',
    reason: 'update',
    make() {
      const doc = new Y.Doc()
      for (let i = 0; i < 17; i++) {
        doc.clientID = clientIdOf(peerOf(mallory), START_MS, `t${i}`)
        doc.getMap('skein').set(`t${i}`, Uint8Array.of(1))
      }
      return envelopeOf(mallory, { update: Y.encodeStateAsUpdate(doc) })
    },
  },
  {
    name: 'a topic that is not valid',
    reason: 'topic',
    make: () => envelopeOf(mallory, { update: updateOf(peerOf(mallory), 'profile', Uint8Array.of(1, 0, 200)) }),
  },
]

for (const { name, reason, make } of forgeries) {
  test(`${name} is rejected (${reason}), counted, and leaves the ledger working`, async (t) => {
    const setting = await setUp(t)
    const { ledger, other, good } = setting
    assert.deepEqual(await ledger.receive(await make(setting)), { rejected: reason })
    assert.equal(ledger.stats().rejected[reason], 1)
    assert.equal(ledger.view().authors.size, 0)
    assert.equal(await ledger.receive(good), 'applied')
    assert.deepEqual([...ledger.view().authors.keys()], [other.ledger.author])
  })
}

test('a replayed record is rejected as stale, in this epoch and from an earlier one', async (t) => {
  const { clock, ledger, other, good } = await setUp(t)
  clock.nowMs += 1_000
  other.ledger.set('holdings', new Map([['model', [bitmapOf([7])]]]))
  const newer = await published(other.ledger)
  assert.equal(await ledger.receive(newer), 'applied')
  assert.deepEqual(await ledger.receive(good), { rejected: 'stale' })
  await other.ledger.stop()
  clock.nowMs += 1_000
  await other.ledger.start()
  assert.equal(await ledger.receive(await published(other.ledger)), 'applied')
  assert.deepEqual(await ledger.receive(newer), { rejected: 'stale' })
  assert.equal(ledger.stats().rejected.stale, 2)
  assert.deepEqual(ledger.view().holders('model', 0, 7), [other.ledger.author])
})

test('of two records with one number all replicas keep the same', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const clock = new ManualClock()
  const a = await createAuthor(1, clock)
  const b = await createAuthor(2, clock)
  t.after(() => Promise.all([a.ledger.stop(), b.ledger.stop()]))
  const service = (served: number) => encodeTopic('service', { served, busy: 0, failed: 0, p50Us: 0, p95Us: 0 })
  const twins = [
    await envelopeOf(mallory, { update: updateOf(peerOf(mallory), 'service', service(1)) }),
    await envelopeOf(mallory, { update: updateOf(peerOf(mallory), 'service', service(2)) }),
  ] as const
  await a.ledger.receive(twins[0])
  await b.ledger.receive(twins[1])
  const servedOf = ({ ledger }: typeof a) => ledger.view().authors.get(peerOf(mallory))?.service?.served
  assert.notEqual(servedOf(a), servedOf(b))
  for (const envelope of a.ledger.missing(b.ledger.digest())) await b.ledger.receive(envelope)
  for (const envelope of b.ledger.missing(a.ledger.digest())) await a.ledger.receive(envelope)
  assert.equal(servedOf(a), servedOf(b))
})

test('topics of later versions are kept and passed on unread', async (t) => {
  const { clock, ledger } = await setUp(t)
  const doc = new Y.Doc()
  for (const [topic, bytes] of [
    ['weather', Uint8Array.of(9, 9, 9)],
    ['observed', Uint8Array.of(3, 9)],
    ['service', Uint8Array.of(2, 42)],
    ['profile', profile],
  ] as const) {
    doc.clientID = clientIdOf(peerOf(mallory), START_MS, topic)
    doc.getMap('skein').set(topic, bytes)
  }
  const envelope = await envelopeOf(mallory, { update: Y.encodeStateAsUpdate(doc) })
  assert.equal(await ledger.receive(envelope), 'applied')
  const author = ledger.view().authors.get(peerOf(mallory))
  assert.equal(author?.profile?.name, 'mallory')
  assert.deepEqual([author?.service, author?.observed], [null, null])
  const late = await createAuthor(3, clock)
  t.after(() => late.ledger.stop())
  const missing = ledger.missing(late.ledger.digest())
  assert.ok(missing.some((bytes) => Buffer.compare(bytes, envelope) === 0))
})

test('a clock within the tolerance is no reason to reject', async (t) => {
  for (const skewMs of [MAX_CLOCK_SKEW_MS, -MAX_CLOCK_SKEW_MS]) {
    await t.test(`${skewMs} ms`, async (t) => {
      const { ledger } = await setUp(t)
      const clock = new ManualClock()
      clock.nowMs += skewMs
      const off = await createAuthor(5, clock)
      t.after(() => off.ledger.stop())
      off.ledger.set('profile', { name: 'off', version: '1', relayed: false })
      assert.equal(await ledger.receive(await published(off.ledger)), 'applied')
      assert.ok(ledger.view().authors.has(off.ledger.author))
    })
  }
})

test('thousands of mutated envelopes are all refused, and nothing breaks', async (t) => {
  const { ledger, other, good } = await setUp(t)
  const seed = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)
  t.diagnostic(`SEED=${seed}`)
  const random = seededRandom(seed)
  const below = (n: number): number => Math.floor(random() * n)
  for (let i = 0; i < 4_000; i++) {
    let bytes = Uint8Array.from(good)
    // Half of them are signed by their author, so that what lies behind the signature is reached too.
    if (i % 2 === 0) {
      const update = updateOf(peerOf(mallory), 'holdings', encodeTopic('holdings', new Map([['model', [bitmapOf([1, 2, 99])]]])))
      for (let n = 1 + below(3); n > 0; n--) update[below(update.length)] = below(256)
      bytes = Uint8Array.from(
        await envelopeOf(mallory, { seq: i + 1, update: update.subarray(0, update.length - (below(4) === 0 ? below(20) : 0)) }),
      )
    } else {
      for (let n = 1 + below(4); n > 0; n--) bytes[below(bytes.length)]! ^= 1 + below(255)
      if (below(4) === 0) bytes = bytes.subarray(0, below(bytes.length))
    }
    const result = await ledger.receive(bytes)
    assert.ok(typeof result === 'string' || ledger.stats().rejected[result.rejected] > 0)
    assert.equal(ledger.view().authors.has(other.ledger.author), false)
  }
  assert.equal(await ledger.receive(good), 'applied')
})
