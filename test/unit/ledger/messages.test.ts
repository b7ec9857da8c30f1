import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import fc from 'fast-check'
import { checkSignature, authorOf, readRecord, NO_RECORD } from '../../../crdt/record.ts'
import { bitmapMembers } from '../../../crdt/index.ts'
import { decodeTopic } from '../../../crdt/topic-codec.ts'
import {
  EnvelopeKind,
  compareVersions,
  decodeDigest,
  decodeEnvelope,
  decodeMessage,
  digestEntry,
  encodeDigest,
  encodeEnvelopeBody,
  encodeMessage,
  envelopeBody,
  joinEnvelope,
} from '../../../protocols/ledger/messages.ts'
import type { SyncMessage } from '../../../protocols/ledger/messages.ts'
import { ByteReader, ByteWriter } from '../../../protocols/ledger/bytes.ts'
import { LIMITS, Status, gossipTopic } from '../../../protocols/ledger/protocol.ts'
import { isMeshError } from '../../../protocols/wire/errors.ts'
import { START_MS, keyNumber, peerOf } from '../../helpers/ledger.ts'

/** One message per file, in hexadecimal; whitespace is for the eye. */
function vector(name: string): Uint8Array {
  const text = readFileSync(new URL(`../../vectors/ledger/${name}.hex`, import.meta.url), 'utf8')
  return Uint8Array.from(Buffer.from(text.replaceAll(/\s/g, ''), 'hex'))
}

const key = await keyNumber(1)
const refused = (error: unknown): boolean => isMeshError(error, 'InvalidMessageError') || isMeshError(error, 'LimitExceededError')

test('the record vector is what it says, and signed', async () => {
  const envelope = decodeEnvelope(vector('envelope-record'))
  await checkSignature(envelope)
  const { kind, authorKey, epoch, seq, createdMs, ttlMs, swarm } = envelope
  assert.deepEqual(
    { kind, authorKey: Buffer.from(authorKey), epoch, seq, createdMs, ttlMs, swarm },
    {
      kind: EnvelopeKind.record,
      authorKey: Buffer.from(key.publicKey.raw),
      epoch: START_MS,
      seq: 1,
      createdMs: START_MS,
      ttlMs: 30_000,
      swarm: 'public',
    },
  )
  assert.equal(authorOf(envelope), peerOf(key))
  const { topics } = readRecord(envelope, peerOf(key), NO_RECORD)
  assert.deepEqual(topics.profile, { name: 'ada', version: '0.1.0', relayed: false })
  assert.deepEqual(topics.service, { served: 1000, busy: 2, failed: 1, p50Us: 250, p95Us: 900 })
  assert.deepEqual(topics.holdings?.get('bafymodel')?.map(bitmapMembers), [[0, 1, 2, 3], [], [8, 15]])
  const routed = topics.routing?.get('bafymodel')
  assert.ok(routed)
  assert.deepEqual({ ...routed, counts: Array.from(routed.counts) }, { layers: 2, experts: 3, counts: [0, 1, 127, 128, 300, 70_000] })
})

test('the deflated topic vector is what it says', () => {
  const routing = decodeTopic('routing', vector('topic-routing-deflated'))?.get('bafymodel')
  assert.ok(routing)
  const expected = Array.from({ length: 256 }, (_, i) => i % 7)
  // Deflate has many encodings of one value, so this vector is only decoded.
  assert.deepEqual(Array.from(routing.counts), expected)
})

test('envelopes encode to their vectors', async () => {
  for (const name of ['envelope-record', 'envelope-goodbye']) {
    const bytes = vector(name)
    const envelope = decodeEnvelope(bytes)
    await checkSignature(envelope)
    assert.deepEqual(joinEnvelope(encodeEnvelopeBody(envelope), envelope.signature), bytes)
    assert.equal(envelopeBody(envelope).length, bytes.length - 64)
  }
  assert.equal(decodeEnvelope(vector('envelope-goodbye')).kind, EnvelopeKind.goodbye)
})

test('digests encode to their vector', () => {
  const bytes = vector('digest')
  const entries = decodeDigest(bytes)
  assert.deepEqual(
    [...entries.values()],
    [
      { key: '0000000000000001', epoch: START_MS, seq: 300, check: 0xdeadbeef },
      { key: 'ff00000000000000', epoch: 1, seq: 1, check: 0 },
    ],
  )
  assert.deepEqual(encodeDigest([...entries.values()].reverse()), bytes)
  const envelope = decodeEnvelope(vector('envelope-record'))
  assert.deepEqual([...decodeDigest(encodeDigest([digestEntry(envelope)])).values()], [digestEntry(envelope)])
})

const messages: [string, SyncMessage][] = [
  ['message-digest', { kind: 'digest', swarm: 'public', digest: vector('digest') }],
  ['message-envelope', { kind: 'envelope', envelope: vector('envelope-goodbye') }],
  ['message-done', { kind: 'done', status: Status.ok }],
  ['message-busy', { kind: 'done', status: Status.busy }],
]
for (const [name, message] of messages) {
  test(`${name} encodes to its vector and back`, () => {
    assert.deepEqual(encodeMessage(message), vector(name))
    assert.deepEqual(decodeMessage(vector(name)), message)
  })
}

test('a status of a later revision is unknown, and what follows a status is ignored', () => {
  assert.deepEqual(decodeMessage(Uint8Array.of(3, 99)), { kind: 'done', status: 'unknown' })
  assert.deepEqual(decodeMessage(Uint8Array.of(3, 100, 1, 2, 3)), { kind: 'done', status: Status.ok })
})

test('messages that follow another format are refused', () => {
  for (const bytes of [[], [0], [9], [1], [1, 200, 1], [3], [3, 0x80]]) assert.throws(() => decodeMessage(Uint8Array.from(bytes)), refused)
})

test('digests that follow another format are refused', () => {
  const entry = '0000000000000001010100000000'
  const bad = ['', '02', '0101', `0102${entry}${entry}`, `0101${entry}00`, '01ff7f', `0102ff${entry}`]
  for (const hex of bad) assert.throws(() => decodeDigest(Buffer.from(hex, 'hex')), refused, hex)
})

test('the larger epoch, then sequence number, then signature stands', () => {
  const version = (epoch: number, seq: number, signature: number) => ({ epoch, seq, signature: Uint8Array.of(signature) })
  const order = [version(1, 9, 9), version(2, 1, 5), version(2, 1, 6), version(2, 2, 0)]
  for (const [i, a] of order.entries()) {
    for (const [j, b] of order.entries()) assert.equal(Math.sign(compareVersions(a, b)), Math.sign(i - j))
  }
})

test('limits hold before anything is made', () => {
  assert.throws(() => decodeEnvelope(new Uint8Array(LIMITS.maxEnvelopeBytes + 1)), refused)
  const envelope = decodeEnvelope(vector('envelope-record'))
  assert.throws(() => encodeEnvelopeBody({ ...envelope, swarm: 'x'.repeat(65) }), refused)
  assert.throws(() => encodeEnvelopeBody({ ...envelope, swarm: '' }), refused)
  const body = encodeEnvelopeBody({ ...envelope, update: new Uint8Array(LIMITS.maxEnvelopeBytes) })
  assert.throws(() => joinEnvelope(body, envelope.signature), refused)
})

test('numbers and strings survive', () => {
  fc.assert(
    fc.property(
      fc.maxSafeNat(),
      fc.string({ unit: 'grapheme', maxLength: 20 }),
      fc.uint8Array({ maxLength: 600 }),
      (number, text, bytes) => {
        const written = new ByteWriter().varint(number).text(text).u64(number).raw(bytes).u32(7).finish()
        const reader = new ByteReader(written)
        assert.equal(reader.varint(), number)
        assert.equal(reader.text(1000), text)
        assert.equal(reader.u64(), number)
        assert.deepEqual(reader.raw(bytes.length), bytes)
        assert.equal(reader.u32(), 7)
        assert.equal(reader.left, 0)
        assert.throws(() => reader.u8(), refused)
      },
    ),
  )
})

test('random bytes never do worse than be refused', () => {
  const decoders = [decodeMessage, decodeDigest, decodeEnvelope]
  fc.assert(
    fc.property(fc.constantFrom(...decoders), fc.constantFrom(0, 1, 2, 3), fc.uint8Array({ maxLength: 300 }), (decode, first, bytes) => {
      try {
        decode(Buffer.concat([Buffer.of(first), bytes]))
      } catch (error) {
        assert.ok(refused(error), String(error))
      }
    }),
    { numRuns: 3000 },
  )
})

test('every swarm has a gossip topic of its own', () => {
  assert.equal(gossipTopic('public'), '/skein/ledger/1/public')
})
