import assert from 'node:assert/strict'
import { readFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { bitmapOf, createLedger } from '../../../crdt/index.ts'
import type { LedgerInit } from '../../../crdt/index.ts'
import { DEFAULTS, MAX_CLOCK_SKEW_MS } from '../../../crdt/defaults.ts'
import { decodeEnvelope } from '../../../protocols/ledger/messages.ts'
import { ManualClock, createAuthor, keyNumber, published, snapshotOf } from '../../helpers/ledger.ts'
import type { TestAuthor } from '../../helpers/ledger.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

const MODEL = 'model'
const holdings = (...experts: number[]) => new Map([[MODEL, [bitmapOf(experts)]]])
const counts = (...values: number[]) => ({ layers: 1, experts: values.length, counts: values })

function setUp(t: TestContext) {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const clock = new ManualClock()
  return {
    clock,
    author: async (n: number, init: Partial<LedgerInit> = {}): Promise<TestAuthor> => {
      const author = await createAuthor(n, clock, init)
      t.after(() => author.ledger.stop())
      return author
    },
  }
}

test('what an author states is in its own view at once', async (t) => {
  const { ledger } = await setUp(t).author(1)
  const changes: (readonly string[])[] = []
  ledger.on('change', (authors) => changes.push(authors))
  ledger.set('holdings', holdings(3))
  assert.deepEqual(ledger.view().holders(MODEL, 0, 3), [ledger.author])
  assert.deepEqual(changes, [[ledger.author]])
  ledger.set('holdings', holdings(3))
  assert.equal(changes.length, 1)
})

test('changes are coalesced: holdings soon, statistics later, heartbeats last', async (t) => {
  const { clock, author } = setUp(t)
  const { ledger } = await author(1)
  let envelopes = 0
  ledger.on('publish', () => envelopes++)
  await ledger.tick()
  assert.equal(envelopes, 0, 'nothing was stated')
  ledger.set('holdings', holdings(1))
  ledger.set('holdings', holdings(1, 2))
  await ledger.tick()
  assert.equal(envelopes, 1)
  for (let i = 3; i < 10; i++) ledger.set('holdings', holdings(i))
  await ledger.tick()
  assert.equal(envelopes, 1)
  clock.nowMs += DEFAULTS.minPublishIntervalMs
  await ledger.tick()
  assert.equal(envelopes, 2)
  ledger.addRouted(MODEL, counts(1, 2))
  clock.nowMs += DEFAULTS.statisticsIntervalMs - 1
  await ledger.tick()
  assert.equal(envelopes, 2)
  clock.nowMs += 1
  await ledger.tick()
  assert.equal(envelopes, 3)
  clock.nowMs += DEFAULTS.heartbeatMs - 1
  await ledger.tick()
  assert.equal(envelopes, 3)
  clock.nowMs += 1
  await ledger.tick()
  assert.equal(envelopes, 4)
})

test('in a large swarm heartbeats are rarer and live longer', async (t) => {
  const { clock, author } = setUp(t)
  const { ledger } = await author(1)
  ledger.set('holdings', holdings(1))
  const alone = decodeEnvelope(await published(ledger))
  assert.equal(alone.ttlMs, DEFAULTS.ttlMs)
  for (let n = 100; n < 160; n++) {
    const other = await author(n)
    other.ledger.set('holdings', holdings(1))
    assert.equal(await ledger.receive(await published(other.ledger)), 'applied')
  }
  clock.nowMs += DEFAULTS.ttlMs / 2
  const crowded = decodeEnvelope(await published(ledger))
  assert.ok(crowded.ttlMs > 2 * DEFAULTS.ttlMs, `${crowded.ttlMs} ms`)
})

test('an author that is no longer heard leaves the view after its ttl, and is not told to others', async (t) => {
  const { clock, author } = setUp(t)
  const a = await author(1)
  const b = await author(2)
  b.ledger.set('holdings', holdings(5))
  await a.ledger.receive(await published(b.ledger))
  clock.nowMs += DEFAULTS.ttlMs + DEFAULTS.graceMs - 1
  await a.ledger.tick()
  assert.deepEqual(a.ledger.view().holders(MODEL, 0, 5), [b.ledger.author])
  const changes: (readonly string[])[] = []
  a.ledger.on('change', (authors) => changes.push(authors))
  clock.nowMs += 1
  await a.ledger.tick()
  assert.deepEqual(a.ledger.view().holders(MODEL, 0, 5), [])
  assert.deepEqual(changes, [[b.ledger.author]])
  const c = await author(3)
  assert.deepEqual(a.ledger.missing(c.ledger.digest()), [])
  assert.equal(a.ledger.stats().authors, 1, 'kept, so that it is not taken again')
  clock.nowMs += MAX_CLOCK_SKEW_MS
  await a.ledger.tick()
  assert.equal(a.ledger.stats().authors, 0)
})

test('a record that ran out does not come back by sync', async (t) => {
  const { clock, author } = setUp(t)
  const [a, b, c] = [await author(1), await author(2), await author(3)]
  b.ledger.set('holdings', holdings(5))
  const record = await published(b.ledger)
  await a.ledger.receive(record)
  clock.nowMs += DEFAULTS.ttlMs
  await c.ledger.receive(record)
  clock.nowMs += DEFAULTS.graceMs
  await a.ledger.tick()
  assert.equal(a.ledger.view().authors.size, 0)
  assert.deepEqual(c.ledger.missing(a.ledger.digest()), [])
  assert.equal(await a.ledger.receive(record), 'known')
  assert.equal(a.ledger.view().authors.size, 0)
})

test('a heartbeat keeps an author in the view, whose clock may be wrong', async (t) => {
  const { clock, author } = setUp(t)
  const a = await author(1)
  const wrong = new ManualClock()
  wrong.nowMs -= MAX_CLOCK_SKEW_MS - 1_000
  const b = await createAuthor(2, wrong)
  t.after(() => b.ledger.stop())
  b.ledger.set('holdings', holdings(5))
  for (let i = 0; i < 10; i++) {
    assert.equal(await a.ledger.receive(await published(b.ledger)), 'applied')
    for (const one of [clock, wrong]) one.nowMs += DEFAULTS.heartbeatMs
    await a.ledger.tick()
    assert.deepEqual(a.ledger.view().holders(MODEL, 0, 5), [b.ledger.author])
  }
})

test('a goodbye removes the author at once, and earlier records do not bring it back', async (t) => {
  const { clock, author } = setUp(t)
  const [a, b] = [await author(1), await author(2)]
  b.ledger.set('holdings', holdings(5))
  const record = await published(b.ledger)
  await a.ledger.receive(record)
  const goodbye = await b.ledger.goodbye()
  assert.equal(b.ledger.view().authors.size, 0)
  assert.equal(await a.ledger.receive(goodbye), 'applied')
  assert.deepEqual(a.ledger.view().holders(MODEL, 0, 5), [])
  assert.deepEqual(await a.ledger.receive(record), { rejected: 'stale' })
  const late = await author(3)
  for (const envelope of a.ledger.missing(late.ledger.digest())) await late.ledger.receive(envelope)
  assert.deepEqual(await late.ledger.receive(record), { rejected: 'stale' })
  clock.nowMs += 10
  await b.ledger.stop()
  await b.ledger.start()
  assert.equal(await a.ledger.receive(await published(b.ledger)), 'applied')
  assert.deepEqual(a.ledger.view().holders(MODEL, 0, 5), [b.ledger.author])
})

test('routing counts of all authors add up, and never fall', async (t) => {
  const { clock, author } = setUp(t)
  const [a, b] = [await author(1), await author(2)]
  a.ledger.addRouted(MODEL, counts(1, 0, 2))
  a.ledger.addRouted(MODEL, counts(1, 0, 2))
  b.ledger.addRouted(MODEL, counts(10, 20))
  await a.ledger.receive(await published(b.ledger))
  assert.deepEqual(Array.from(a.ledger.view().routed(MODEL, 1, 3)), [12, 20, 4])
  const before = a.ledger.view()
  b.ledger.set('routing', new Map([[MODEL, counts(5, 25)]]))
  clock.nowMs += DEFAULTS.statisticsIntervalMs
  await a.ledger.receive(await published(b.ledger))
  assert.deepEqual(Array.from(a.ledger.view().routed(MODEL, 1, 3)), [12, 25, 4])
  assert.deepEqual(Array.from(before.routed(MODEL, 1, 3)), [12, 20, 4], 'a view never changes')
  assert.deepEqual(Array.from(a.ledger.view().routed(MODEL, 2, 2)), [12, 25, 0, 0])
})

test('coverage counts live replicas', async (t) => {
  const { author } = setUp(t)
  const [a, b] = [await author(1), await author(2)]
  a.ledger.set('holdings', new Map([[MODEL, [bitmapOf([0, 1]), bitmapOf([0, 1])]]]))
  assert.deepEqual(a.ledger.view().coverage(MODEL, 2, 3), { experts: 6, covered: 4, minReplicas: 0 })
  b.ledger.set('holdings', new Map([[MODEL, [bitmapOf([1, 2]), bitmapOf([0, 1, 2])]]]))
  await a.ledger.receive(await published(b.ledger))
  assert.deepEqual(a.ledger.view().coverage(MODEL, 2, 3), { experts: 6, covered: 6, minReplicas: 1 })
  assert.deepEqual(a.ledger.view().holders(MODEL, 1, 1), [a.ledger.author, b.ledger.author].toSorted())
})

test('a document does not grow with the number of updates', async (t) => {
  const { clock, author } = setUp(t)
  const { ledger } = await author(1)
  const other = await author(2)
  ledger.set('profile', { name: 'busy', version: '1', relayed: false })
  let largest = 0
  for (let i = 0; i < 5_000; i++) {
    ledger.set('holdings', holdings(i % 8, 8 + (i % 56)))
    ledger.set('service', { served: i, busy: 0, failed: 0, p50Us: i, p95Us: 2 * i })
    ledger.addRouted(MODEL, counts(i % 3, 1, 1, 1))
    ledger.set('profile', { name: `busy ${i}`, version: '1', relayed: false })
    clock.nowMs += DEFAULTS.statisticsIntervalMs
    const envelope = await published(ledger)
    largest = Math.max(largest, envelope.length)
    if (i % 1_000 === 999) assert.equal(await other.ledger.receive(envelope), 'applied')
  }
  t.diagnostic(`20,000 updates of 4 topics: largest envelope ${largest} bytes`)
  assert.ok(largest <= 1024)
})

test('the store brings back other authors, and the own counts but not the own holdings', async (t) => {
  const { clock, author } = setUp(t)
  const storeFile = join(await temporaryDir(t), 'data', 'ledger')
  const a = await author(1, { storeFile })
  const b = await author(2)
  b.ledger.set('holdings', holdings(5))
  await a.ledger.receive(await published(b.ledger))
  a.ledger.set('holdings', holdings(1))
  a.ledger.addRouted(MODEL, counts(7))
  const first = decodeEnvelope(await published(a.ledger))
  await a.ledger.goodbye()
  await a.ledger.stop()
  clock.nowMs += 1_000
  const again = await author(1, { storeFile })
  assert.deepEqual(again.ledger.view().holders(MODEL, 0, 5), [b.ledger.author])
  assert.equal(again.ledger.own('holdings'), null)
  again.ledger.addRouted(MODEL, counts(1))
  assert.deepEqual(Array.from(again.ledger.view().routed(MODEL, 1, 1)), [8])
  const second = decodeEnvelope(await published(again.ledger))
  assert.ok(second.epoch > first.epoch)
  assert.equal(again.ledger.stats().storeFailures, 0)
})

test('the store is written now and then, and replaced as a whole', async (t) => {
  const { clock, author } = setUp(t)
  const storeFile = join(await temporaryDir(t), 'ledger')
  const { ledger } = await author(1, { storeFile })
  ledger.set('holdings', holdings(1))
  clock.nowMs += DEFAULTS.persistIntervalMs
  await ledger.tick()
  const { size } = await stat(storeFile)
  assert.ok(size > 100 && size < 1024)
})

test('a damaged store is counted, and what is whole in it is used', async (t) => {
  const { clock, author } = setUp(t)
  const storeFile = join(await temporaryDir(t), 'ledger')
  const a = await author(1, { storeFile })
  for (let n = 2; n < 6; n++) {
    const other = await author(n)
    other.ledger.set('holdings', holdings(n))
    await a.ledger.receive(await published(other.ledger))
  }
  await a.ledger.stop()
  const whole = await readFile(storeFile)
  const damages: [string, Buffer, (authors: number) => boolean][] = [
    ['torn', whole.subarray(0, -10), (authors) => authors === 3],
    ['empty', Buffer.alloc(0), (authors) => authors === 0],
    ['no ledger', Buffer.from('a text file of some length'), (authors) => authors === 0],
    ['a bit flipped', Buffer.from(whole.map((byte, i) => (i === 300 ? byte ^ 1 : byte))), (authors) => authors === 3],
    ['an impossible length', Buffer.from(whole.map((byte, i) => (i === 11 ? 255 : byte))), (authors) => authors === 0],
  ]
  for (const [what, bytes, expected] of damages) {
    await writeFile(storeFile, bytes)
    const failures: Error[] = []
    const ledger = createLedger({ privateKey: await keyNumber(1), clock: clock.read }, { swarm: 'test', storeFile })
    ledger.on('failure', (error) => failures.push(error))
    await ledger.start()
    assert.ok(expected(ledger.view().authors.size), `${what}: ${ledger.view().authors.size} authors`)
    assert.ok(ledger.stats().storeFailures > 0, what)
    ledger.set('holdings', holdings(1))
    assert.ok((await published(ledger)).length > 0)
    await ledger.stop()
    const { storeFailures } = ledger.stats()
    assert.ok(storeFailures > 0 && (await readFile(storeFile)).length > 100, what)
  }
})

test('a store that can not be written does not stop the ledger', async (t) => {
  const { author } = setUp(t)
  const file = join(await temporaryDir(t), 'file')
  await writeFile(file, '')
  const { ledger } = await author(1, { storeFile: join(file, 'ledger') })
  ledger.set('holdings', holdings(1))
  await assert.rejects(ledger.flush())
  await ledger.stop()
  assert.equal(ledger.stats().storeFailures, 2, 'one at reading, one at stop')
})

test('a node that lost its store gets its counts back from a peer', async (t) => {
  const { clock, author } = setUp(t)
  const [a, b] = [await author(1), await author(2)]
  a.ledger.addRouted(MODEL, counts(40, 2))
  await b.ledger.receive(await published(a.ledger))
  await a.ledger.stop()
  clock.nowMs += 5_000
  const again = await author(1)
  again.ledger.set('holdings', holdings(1))
  await published(again.ledger)
  for (const envelope of b.ledger.missing(again.ledger.digest())) assert.equal(await again.ledger.receive(envelope), 'applied')
  assert.deepEqual(Array.from(again.ledger.view().routed(MODEL, 1, 2)), [40, 2])
  clock.nowMs += DEFAULTS.statisticsIntervalMs
  assert.equal(await b.ledger.receive(await published(again.ledger)), 'applied')
  assert.deepEqual(snapshotOf(b.ledger.view()), snapshotOf(again.ledger.view()))
})

test('an author whose clock was set back is heard again', async (t) => {
  const { clock, author } = setUp(t)
  const b = await author(2)
  const own = new ManualClock()
  own.nowMs += MAX_CLOCK_SKEW_MS
  const privateKey = await keyNumber(1)
  const first = createLedger({ privateKey, clock: own.read }, { swarm: 'test' })
  await first.start()
  first.set('holdings', holdings(1))
  const early = await published(first)
  assert.equal(await b.ledger.receive(early), 'applied')
  await first.stop()
  own.nowMs = clock.nowMs
  const second = createLedger({ privateKey, clock: own.read }, { swarm: 'test' })
  t.after(() => second.stop())
  await second.start()
  second.set('holdings', holdings(2))
  assert.deepEqual(await b.ledger.receive(await published(second)), { rejected: 'stale' })
  for (const envelope of b.ledger.missing(second.digest())) await second.receive(envelope)
  for (const one of [clock, own]) one.nowMs += 1_000
  assert.equal(await b.ledger.receive(await published(second)), 'applied')
  assert.deepEqual(b.ledger.view().holders(MODEL, 0, 2), [second.author])
})

test('start and stop may be called twice, in either order', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const ledger = createLedger({ privateKey: await keyNumber(1) }, { swarm: 'test' })
  await ledger.stop()
  await ledger.start()
  await ledger.start()
  await ledger.stop()
  await ledger.stop()
  assert.throws(() => createLedger({ privateKey: ledger as never }, { swarm: 'test' }), TypeError)
})

test('the own timer publishes', async (t) => {
  const ledger = createLedger({ privateKey: await keyNumber(1) }, { swarm: 'test' })
  t.after(() => ledger.stop())
  await ledger.start()
  const envelope = new Promise<Uint8Array>((resolve) => ledger.on('publish', resolve))
  ledger.set('holdings', holdings(1))
  assert.equal(decodeEnvelope(await envelope).seq, 1)
})
