import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import type { Stream } from '@libp2p/interface'
import { streamPair } from '@libp2p/utils'
import * as lengthPrefixed from 'it-length-prefixed'
import { createLedgerClient, createLedgerHandler, LIMITS, Status } from '../../../protocols/ledger/index.ts'
import type { LedgerAccess, LedgerHandlerInit, SyncResult, Verdict } from '../../../protocols/ledger/index.ts'
import { encodeDigest, encodeMessage } from '../../../protocols/ledger/messages.ts'
import type { SyncMessage } from '../../../protocols/ledger/messages.ts'
import { InvalidMessageError, isMeshError } from '../../../protocols/wire/errors.ts'

const DIGEST = encodeDigest([])
const connection = { remotePeer: 'the dialler' }
const named =
  (name: string, status?: string) =>
  (error: unknown): boolean =>
    isMeshError(error, name) && (status === undefined || (error as { status?: string }).status === status)

/** A side that has these envelopes, which the other lacks. */
function sideOf(envelopes: string[], init: { swarm?: string; verdict?: Verdict } = {}): LedgerAccess & { readonly got: string[] } {
  const got: string[] = []
  return {
    got,
    swarm: init.swarm ?? 'test',
    digest: () => DIGEST,
    missing(digest) {
      if (Buffer.compare(digest, DIGEST) !== 0) throw new InvalidMessageError('not the digest of this test')
      return envelopes.map((text) => Buffer.from(text))
    },
    async receive(envelope) {
      got.push(Buffer.from(envelope).toString())
      return await Promise.resolve(init.verdict ?? 'applied')
    },
  }
}

async function pair(t: TestContext): Promise<[Stream, Stream]> {
  const streams = await streamPair()
  t.after(() => {
    for (const stream of streams) if (stream.status === 'open') stream.abort(new Error('the test is over'))
  })
  return streams
}

interface Outcome {
  readonly client: Promise<SyncResult>
  readonly handler: Promise<SyncResult | null>
}

async function run(t: TestContext, client: LedgerAccess, server: LedgerAccess, init: LedgerHandlerInit = {}): Promise<Outcome> {
  const [out, into] = await pair(t)
  const handler = createLedgerHandler({ access: server }, init).handle(into, connection)
  const syncing = createLedgerClient({ access: client, openStream: async () => await Promise.resolve(out) }).sync('peer')
  return { client: syncing, handler }
}

/** A hostile dialler: sends these bytes as they are, then keeps quiet or hangs up. */
async function send(stream: Stream, messages: (SyncMessage | Uint8Array)[], hangUp = true): Promise<void> {
  for (const message of messages) {
    stream.send(message instanceof Uint8Array ? message : lengthPrefixed.encode.single(encodeMessage(message)))
  }
  if (hangUp) await stream.close()
}

/** The last message of a stream, as bytes. */
async function lastOf(stream: Stream): Promise<Uint8Array> {
  let last = new Uint8Array()
  for await (const message of lengthPrefixed.decode(stream)) last = Uint8Array.from(message.subarray())
  return last
}

const done = (status: Status): Uint8Array => encodeMessage({ kind: 'done', status })
const hello: SyncMessage = { kind: 'digest', swarm: 'test', digest: DIGEST }

test('both sides end with what the other had', async (t) => {
  const [a, b] = [sideOf(['a1', 'a2']), sideOf(['b1'])]
  const { client, handler } = await run(t, a, b)
  assert.deepEqual(await client, { received: 1, applied: 1, sent: 2 })
  assert.deepEqual(await handler, { received: 2, applied: 2, sent: 1 })
  assert.deepEqual([a.got, b.got], [['b1'], ['a1', 'a2']])
})

test('more than one sync carries is left to the next', async (t) => {
  const many = Array.from({ length: LIMITS.maxSyncEnvelopes + 10 }, (_, i) => `${i}`)
  const [a, b] = [sideOf([]), sideOf(many)]
  const { client } = await run(t, a, b)
  assert.equal((await client).received, LIMITS.maxSyncEnvelopes)
  assert.deepEqual(a.got, many.slice(0, LIMITS.maxSyncEnvelopes))
})

test('many large envelopes stay within the byte limit', async (t) => {
  const envelope = 'x'.repeat(LIMITS.maxEnvelopeBytes)
  const [a, b] = [sideOf([]), sideOf(Array.from({ length: 300 }, () => envelope))]
  const { client, handler } = await run(t, a, b)
  const { received } = await client
  assert.ok(received > 100 && received * LIMITS.maxEnvelopeBytes < LIMITS.maxSyncBytes)
  assert.notEqual(await handler, null)
})

test('a peer of another swarm is refused', async (t) => {
  const { client, handler } = await run(t, sideOf(['a']), sideOf(['b'], { swarm: 'other' }))
  await assert.rejects(client, named('PeerRefusedError', 'wrongSwarm'))
  assert.equal(await handler, null)
})

test('more syncs than are served at once are told busy', async (t) => {
  const access = sideOf([])
  const handler = createLedgerHandler({ access }, { maxServedSyncs: 1 })
  const [quiet, quietIn] = await pair(t)
  const first = handler.handle(quietIn, connection)
  const [out, into] = await pair(t)
  const second = handler.handle(into, connection)
  const syncing = createLedgerClient({ access, openStream: async () => await Promise.resolve(out) }).sync('peer')
  await assert.rejects(syncing, named('PeerRefusedError', 'busy'))
  assert.equal(await second, null)
  await send(quiet, [hello, { kind: 'done', status: Status.ok }])
  assert.deepEqual(await first, { received: 0, applied: 0, sent: 0 })
})

test('a peer that only sends forgeries is given up', async (t) => {
  const forgeries = Array.from({ length: LIMITS.maxInvalidEnvelopes + 5 }, () => 'forged')
  const honest = sideOf([], { verdict: 'invalid' })
  const asHandler = await run(t, sideOf(forgeries), honest)
  await assert.rejects(asHandler.client, named('PeerRefusedError', 'malformed'))
  assert.equal(await asHandler.handler, null)
  assert.equal(honest.got.length, LIMITS.maxInvalidEnvelopes + 1)
  const asClient = await run(t, sideOf([], { verdict: 'invalid' }), sideOf(forgeries))
  await assert.rejects(asClient.client, named('InvalidMessageError'))
  assert.equal(await asClient.handler, null)
})

const hostile: [string, Status, (SyncMessage | Uint8Array)[]][] = [
  ['sends no digest', Status.malformed, [{ kind: 'envelope', envelope: Uint8Array.of(1) }]],
  ['says nothing', Status.malformed, []],
  ['sends an unknown message', Status.malformed, [Uint8Array.of(1, 77)]],
  ['sends a digest that can not be read', Status.malformed, [{ ...hello, digest: Uint8Array.of(1, 1) }]],
  ['sends two digests', Status.malformed, [hello, hello]],
  ['hangs up in the middle of a message', Status.malformed, [hello, Uint8Array.of(100, 2, 1)]],
  ['announces a message of 1 GB', Status.malformed, [Uint8Array.of(0x80, 0x80, 0x80, 0x80, 4)]],
  [
    'sends more envelopes than allowed',
    Status.tooLarge,
    [hello, ...Array.from({ length: 1025 }, () => ({ kind: 'envelope', envelope: Uint8Array.of(1) }) as const)],
  ],
]
for (const [what, status, messages] of hostile) {
  test(`a peer that ${what} gets its status, and the handler ends`, async (t) => {
    const [out, into] = await pair(t)
    const handled = createLedgerHandler({ access: sideOf([]) }).handle(into, connection)
    const last = lastOf(out)
    await send(out, messages)
    assert.deepEqual(await last, done(status))
    assert.equal(await handled, null)
  })
}

test('a peer that sends without end is cut off', async (t) => {
  const [out, into] = await pair(t)
  const handled = createLedgerHandler({ access: sideOf([]) }).handle(into, connection)
  const envelope = lengthPrefixed.encode.single(encodeMessage({ kind: 'envelope', envelope: new Uint8Array(60_000) }))
  await send(out, [hello], false)
  while (out.status === 'open') {
    if (!out.send(envelope)) await out.onDrain().catch(() => {})
    await new Promise((resolve) => setImmediate(resolve))
  }
  assert.equal(await handled, null)
})

test('a quiet peer costs the handler no more than its deadline', async (t) => {
  const [out, into] = await pair(t)
  const handled = createLedgerHandler({ access: sideOf([]) }, { syncTimeoutMs: 50 }).handle(into, connection)
  await send(out, [hello], false)
  assert.equal(await handled, null)
})

test('a quiet peer costs the client no more than its deadline', async (t) => {
  const [out] = await pair(t)
  const client = createLedgerClient({ access: sideOf([]), openStream: async () => await Promise.resolve(out) }, { syncTimeoutMs: 50 })
  await assert.rejects(client.sync('peer'), named('DeadlineError'))
})

test('an abort ends both sides with its reason', async (t) => {
  const [out, into] = await pair(t)
  const stopping = new AbortController()
  const reason = new Error('stop')
  const handled = createLedgerHandler({ access: sideOf([]) }, { signal: stopping.signal }).handle(into, connection)
  stopping.abort(reason)
  assert.equal(await handled, null)
  const [other] = await pair(t)
  const client = createLedgerClient({ access: sideOf([]), openStream: async () => await Promise.resolve(other) })
  const caller = new AbortController()
  const syncing = client.sync('peer', { signal: caller.signal })
  caller.abort(reason)
  await assert.rejects(syncing, (error) => error === reason)
  assert.equal(out.status === 'open', false)
})

test('a peer that can not be reached, or hangs up, is lost', async (t) => {
  const unreachable = createLedgerClient({ access: sideOf([]), openStream: () => Promise.reject(new Error('no route')) })
  await assert.rejects(unreachable.sync('peer'), named('PeerLostError'))
  const [out, into] = await pair(t)
  const client = createLedgerClient({ access: sideOf([]), openStream: async () => await Promise.resolve(out) })
  const syncing = client.sync('peer')
  await into.close()
  await assert.rejects(syncing, named('PeerLostError'))
  const [broken, breaking] = await pair(t)
  const second = createLedgerClient({ access: sideOf([]), openStream: async () => await Promise.resolve(broken) }).sync('peer')
  breaking.abort(new Error('gone'))
  await assert.rejects(second, named('PeerLostError'))
})
