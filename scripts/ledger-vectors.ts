/** Writes test/vectors/ledger anew: only with a new revision of protocols/ledger/README.md. */
import { writeFileSync } from 'node:fs'
import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { AuthorDocument } from '../crdt/author-document.ts'
import { bitmapOf } from '../crdt/bitmap.ts'
import { sealEnvelope } from '../crdt/record.ts'
import { encodeTopic } from '../crdt/topic-codec.ts'
import { EnvelopeKind, encodeDigest, encodeMessage } from '../protocols/ledger/messages.ts'
import { Status } from '../protocols/ledger/protocol.ts'

const BEGIN_MS = Date.UTC(2026, 0, 1)
const BYTES_PER_LINE = 32
const DEFLATED_COUNTS = Array.from({ length: 256 }, (_, i) => i % 7)

function write(name: string, bytes: Uint8Array): void {
  const lines =
    Buffer.from(bytes)
      .toString('hex')
      .match(new RegExp(`.{1,${2 * BYTES_PER_LINE}}`, 'g')) ?? []
  writeFileSync(new URL(`../test/vectors/ledger/${name}.hex`, import.meta.url), `${lines.join('\n')}\n`)
}

const seed = new Uint8Array(32)
seed[0] = 1
const privateKey = await generateKeyPairFromSeed('Ed25519', seed)
const document = new AuthorDocument(peerIdFromPrivateKey(privateKey).toString(), BEGIN_MS)
document.set('profile', encodeTopic('profile', { name: 'ada', version: '0.1.0', relayed: false }))
document.set('holdings', encodeTopic('holdings', new Map([['bafymodel', [bitmapOf([0, 1, 2, 3]), bitmapOf([]), bitmapOf([8, 15])]]])))
const routing = new Map([['bafymodel', { layers: 2, experts: 3, counts: [0, 1, 127, 128, 300, 70_000] }]])
document.set('routing', encodeTopic('routing', routing))
document.set('service', encodeTopic('service', { served: 999, busy: 2, failed: 1, p50Us: 250, p95Us: 900 }))
// Twice, so that the vector has a tombstone.
document.set('service', encodeTopic('service', { served: 1000, busy: 2, failed: 1, p50Us: 250, p95Us: 900 }))

const common = { epoch: BEGIN_MS, ttlMs: 30_000, swarm: 'public' }
const record = await sealEnvelope(privateKey, {
  ...common,
  kind: EnvelopeKind.record,
  seq: 1,
  createdMs: BEGIN_MS,
  update: document.encode(),
})
const goodbye = await sealEnvelope(privateKey, {
  ...common,
  kind: EnvelopeKind.goodbye,
  seq: 2,
  createdMs: BEGIN_MS + 1_500,
  update: new Uint8Array(),
})
const digest = encodeDigest([
  { key: '0000000000000001', epoch: BEGIN_MS, seq: 300, check: 0xdeadbeef },
  { key: 'ff00000000000000', epoch: 1, seq: 1, check: 0 },
])

write('envelope-record', record)
write('envelope-goodbye', goodbye)
write('topic-routing-deflated', encodeTopic('routing', new Map([['bafymodel', { layers: 4, experts: 64, counts: DEFLATED_COUNTS }]])))
write('digest', digest)
write('message-digest', encodeMessage({ kind: 'digest', swarm: 'public', digest }))
write('message-envelope', encodeMessage({ kind: 'envelope', envelope: goodbye }))
write('message-done', encodeMessage({ kind: 'done', status: Status.ok }))
write('message-busy', encodeMessage({ kind: 'done', status: Status.busy }))
