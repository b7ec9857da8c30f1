import { InvalidMessageError, LimitExceededError } from '../wire/errors.ts'
import { ByteReader, ByteWriter } from './bytes.ts'
import { LIMITS, Status } from './protocol.ts'

export const ENVELOPE_VERSION = 1
export const DIGEST_VERSION = 1
const KEY_BYTES = 32
const SIGNATURE_BYTES = 64
const KEY_PREFIX_BYTES = 8
const CHECK_BYTES = 4

/** A record replaces the author's earlier one; a goodbye removes the author. */
export const EnvelopeKind = Object.freeze({ record: 0, goodbye: 1 } as const)
export type EnvelopeKind = (typeof EnvelopeKind)[keyof typeof EnvelopeKind]

/** One author's whole document at one moment, as the author signs it. */
export interface EnvelopeFields {
  readonly kind: EnvelopeKind
  /** Raw Ed25519 public key of the author, 32 bytes. */
  readonly authorKey: Uint8Array
  /** One life of the author's document; later lives have greater numbers. */
  readonly epoch: number
  /** Counts the envelopes of one epoch, from 1. */
  readonly seq: number
  /** Milliseconds since 1970, by the author's clock. */
  readonly createdMs: number
  readonly ttlMs: number
  readonly swarm: string
  /** Yjs update (v1) of the whole document; empty in a goodbye. */
  readonly update: Uint8Array
}

export interface Envelope extends EnvelopeFields {
  readonly signature: Uint8Array
  /** The whole envelope as received. */
  readonly bytes: Uint8Array
}

/** What distinguishes two envelopes of one author. */
export type EnvelopeVersion = Pick<Envelope, 'epoch' | 'seq' | 'signature'>

const SIGNING_DOMAIN = new TextEncoder().encode('skein-ledger:1\n')

/** All of an envelope but its signature. */
export function encodeEnvelopeBody(fields: EnvelopeFields): Uint8Array {
  const swarm = new TextEncoder().encode(fields.swarm)
  if (swarm.length === 0 || swarm.length > LIMITS.maxSwarmBytes) {
    throw new LimitExceededError(`a swarm id has 1 to ${LIMITS.maxSwarmBytes} bytes, this one ${swarm.length}`)
  }
  return new ByteWriter()
    .u8(ENVELOPE_VERSION)
    .u8(fields.kind)
    .raw(fields.authorKey)
    .u64(fields.epoch)
    .u32(fields.seq)
    .u64(fields.createdMs)
    .u32(fields.ttlMs)
    .u8(swarm.length)
    .raw(swarm)
    .u32(fields.update.length)
    .raw(fields.update)
    .finish()
}

/** What the author signs: the body under a name that no other signature of the same key uses. */
export function signedBytes(body: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(SIGNING_DOMAIN.length + body.length)
  bytes.set(SIGNING_DOMAIN)
  bytes.set(body, SIGNING_DOMAIN.length)
  return bytes
}

/** Throws `LimitExceededError` when the whole exceeds {@link LIMITS}.maxEnvelopeBytes. */
export function joinEnvelope(body: Uint8Array, signature: Uint8Array): Uint8Array {
  if (signature.length !== SIGNATURE_BYTES) throw new InvalidMessageError(`an Ed25519 signature has ${SIGNATURE_BYTES} bytes`)
  const bytes = new Uint8Array(body.length + SIGNATURE_BYTES)
  checkEnvelopeSize(bytes)
  bytes.set(body)
  bytes.set(signature, body.length)
  return bytes
}

/** The envelope without its signature. */
export function envelopeBody(envelope: Envelope): Uint8Array {
  return envelope.bytes.subarray(0, envelope.bytes.length - SIGNATURE_BYTES)
}

/**
 * Copies and parses one envelope; verifies no signature and no clock.
 * Throws `LimitExceededError` when it is too large, `InvalidMessageError` when it follows another format.
 */
export function decodeEnvelope(input: Uint8Array): Envelope {
  checkEnvelopeSize(input)
  // Own memory: the update must not lie in a larger buffer, which Yjs would read on into.
  const bytes = Uint8Array.from(input)
  const reader = new ByteReader(bytes)
  const version = reader.u8()
  if (version !== ENVELOPE_VERSION) throw new InvalidMessageError(`envelope version ${version}, this node reads ${ENVELOPE_VERSION}`)
  const kind = reader.u8()
  if (kind !== EnvelopeKind.record && kind !== EnvelopeKind.goodbye) throw new InvalidMessageError(`unknown envelope kind ${kind}`)
  const authorKey = reader.raw(KEY_BYTES)
  const epoch = reader.u64()
  const seq = reader.u32()
  const createdMs = reader.u64()
  const ttlMs = reader.u32()
  if (seq === 0) throw new InvalidMessageError('envelopes are counted from 1')
  if (epoch > createdMs) throw new InvalidMessageError('an epoch begins before its envelopes are made')
  if (ttlMs > LIMITS.maxTtlMs) throw new InvalidMessageError(`ttl ${ttlMs} ms exceeds ${LIMITS.maxTtlMs}`)
  const swarmBytes = reader.u8()
  if (swarmBytes === 0 || swarmBytes > LIMITS.maxSwarmBytes) throw new InvalidMessageError(`swarm id of ${swarmBytes} bytes`)
  const swarm = decodeText(reader.raw(swarmBytes))
  const update = reader.raw(reader.u32()).slice()
  const signature = reader.raw(SIGNATURE_BYTES)
  if (reader.left !== 0) throw new InvalidMessageError(`${reader.left} bytes after the signature`)
  if (kind === EnvelopeKind.goodbye && update.length > 0) throw new InvalidMessageError('a goodbye carries no document')
  return { kind, authorKey, epoch, seq, createdMs, ttlMs, swarm, update, signature, bytes }
}

/**
 * Which of two envelopes of one author stands: positive when `a` does. A total order, so that all replicas choose alike
 * whatever the order of arrival, even when an author signs two envelopes with one number.
 */
export function compareVersions(a: EnvelopeVersion, b: EnvelopeVersion): number {
  return a.epoch - b.epoch || a.seq - b.seq || Buffer.compare(a.signature, b.signature)
}

/** What a peer has of one author. */
export interface DigestEntry {
  /** First 8 bytes of the author's key, as 16 hexadecimal digits. */
  readonly key: string
  readonly epoch: number
  readonly seq: number
  /** First 4 bytes of the signature: tells twins with one number apart. */
  readonly check: number
}

export function digestKey(authorKey: Uint8Array): string {
  return Buffer.from(authorKey.buffer, authorKey.byteOffset, KEY_PREFIX_BYTES).toString('hex')
}

export function digestEntry(envelope: Envelope): DigestEntry {
  const { signature } = envelope
  const check = new DataView(signature.buffer, signature.byteOffset, CHECK_BYTES).getUint32(0, true)
  return { key: digestKey(envelope.authorKey), epoch: envelope.epoch, seq: envelope.seq, check }
}

/** Sorts by key; of two authors with one key prefix only the first is named. */
export function encodeDigest(entries: Iterable<DigestEntry>): Uint8Array {
  const byKey = new Map<string, DigestEntry>()
  for (const entry of entries) if (!byKey.has(entry.key)) byKey.set(entry.key, entry)
  const sorted = [...byKey.values()].sort((a, b) => (a.key < b.key ? -1 : 1)).slice(0, LIMITS.maxAuthors)
  const writer = new ByteWriter().u8(DIGEST_VERSION).varint(sorted.length)
  for (const entry of sorted) writer.raw(Buffer.from(entry.key, 'hex')).varint(entry.epoch).varint(entry.seq).u32(entry.check)
  return writer.finish()
}

/** Throws `InvalidMessageError` or `LimitExceededError`. */
export function decodeDigest(bytes: Uint8Array): ReadonlyMap<string, DigestEntry> {
  const reader = new ByteReader(bytes)
  const version = reader.u8()
  if (version !== DIGEST_VERSION) throw new InvalidMessageError(`digest version ${version}, this node reads ${DIGEST_VERSION}`)
  const count = reader.varint()
  if (count > LIMITS.maxAuthors) throw new LimitExceededError(`a digest of ${count} authors exceeds ${LIMITS.maxAuthors}`)
  const entries = new Map<string, DigestEntry>()
  let last = ''
  for (let i = 0; i < count; i++) {
    const key = Buffer.from(reader.raw(KEY_PREFIX_BYTES)).toString('hex')
    if (key <= last) throw new InvalidMessageError('the authors of a digest are not in order')
    last = key
    entries.set(key, { key, epoch: reader.varint(), seq: reader.varint(), check: reader.u32() })
  }
  if (reader.left !== 0) throw new InvalidMessageError(`${reader.left} bytes after the digest`)
  return entries
}

export type SyncMessage =
  | { readonly kind: 'digest'; readonly swarm: string; readonly digest: Uint8Array }
  | { readonly kind: 'envelope'; readonly envelope: Uint8Array }
  | { readonly kind: 'done'; readonly status: Status | 'unknown' }

const MessageKind = Object.freeze({ digest: 1, envelope: 2, done: 3 } as const)
const KNOWN_STATUS: ReadonlySet<number> = new Set(Object.values(Status))

export function encodeMessage(message: SyncMessage): Uint8Array {
  switch (message.kind) {
    case 'digest':
      return new ByteWriter().u8(MessageKind.digest).text(message.swarm).raw(message.digest).finish()
    case 'envelope':
      return new ByteWriter().u8(MessageKind.envelope).raw(message.envelope).finish()
    case 'done':
      return new ByteWriter()
        .u8(MessageKind.done)
        .varint(message.status === 'unknown' ? Status.failed : message.status)
        .finish()
  }
}

/** Throws `InvalidMessageError`; bytes after a status are left to later revisions. */
export function decodeMessage(bytes: Uint8Array): SyncMessage {
  const reader = new ByteReader(bytes)
  const kind = reader.u8()
  switch (kind) {
    case MessageKind.digest:
      return { kind: 'digest', swarm: reader.text(LIMITS.maxSwarmBytes), digest: reader.raw(reader.left) }
    case MessageKind.envelope:
      return { kind: 'envelope', envelope: reader.raw(reader.left) }
    case MessageKind.done: {
      const status = reader.varint()
      return { kind: 'done', status: KNOWN_STATUS.has(status) ? (status as Status) : 'unknown' }
    }
    default:
      throw new InvalidMessageError(`unknown message kind ${kind}`)
  }
}

function checkEnvelopeSize(bytes: Uint8Array): void {
  if (bytes.length > LIMITS.maxEnvelopeBytes) {
    throw new LimitExceededError(`an envelope of ${bytes.length} bytes exceeds ${LIMITS.maxEnvelopeBytes}`)
  }
}

function decodeText(bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes)
  } catch {
    throw new InvalidMessageError('the swarm id is not UTF-8')
  }
}
