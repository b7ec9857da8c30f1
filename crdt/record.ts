import { createHash } from 'node:crypto'
import { publicKeyFromRaw } from '@libp2p/crypto/keys'
import type { PrivateKey, PublicKey } from '@libp2p/interface'
import { peerIdFromPublicKey } from '@libp2p/peer-id'
import {
  ENVELOPE_VERSION,
  EnvelopeKind,
  decodeEnvelope,
  encodeEnvelopeBody,
  envelopeBody,
  joinEnvelope,
  signedBytes,
} from '../protocols/ledger/messages.ts'
import type { Envelope, EnvelopeFields } from '../protocols/ledger/messages.ts'
import { LIMITS } from '../protocols/ledger/protocol.ts'
import { isMeshError } from '../protocols/wire/errors.ts'
import { readAuthorUpdate } from './author-document.ts'
import { RejectedRecordError } from './rejection.ts'
import { TOPICS } from './schema.ts'
import type { Topic, TopicValues } from './schema.ts'
import { decodeTopic } from './topic-codec.ts'

/** The topics of one author that this node understands. */
export type TopicRecord = { readonly [T in Topic]: TopicValues[T] | null }

export const NO_TOPICS: TopicRecord = Object.freeze({
  profile: null,
  holdings: null,
  leaving: null,
  routing: null,
  service: null,
  observed: null,
})

/** Signs an envelope. Throws `LimitExceededError` when the document makes it too large. */
export async function sealEnvelope(privateKey: PrivateKey, fields: Omit<EnvelopeFields, 'authorKey'>): Promise<Uint8Array> {
  const body = encodeEnvelopeBody({ ...fields, authorKey: privateKey.publicKey.raw })
  return joinEnvelope(body, await privateKey.sign(signedBytes(body)))
}

/** Parses an envelope; throws `RejectedRecordError` with reason `oversized`, `version` or `malformed`. */
export function parseEnvelope(bytes: Uint8Array, swarm: string): Envelope {
  let envelope: Envelope
  try {
    if (bytes.length <= LIMITS.maxEnvelopeBytes && bytes.length > 0 && bytes[0] !== ENVELOPE_VERSION) {
      throw new RejectedRecordError('version', `envelope version ${bytes[0]}`)
    }
    envelope = decodeEnvelope(bytes)
  } catch (error) {
    if (isMeshError(error, 'LimitExceededError')) throw new RejectedRecordError('oversized', 'too large', { cause: error })
    if (isMeshError(error, 'InvalidMessageError')) throw new RejectedRecordError('malformed', 'not an envelope', { cause: error })
    throw error
  }
  if (envelope.swarm !== swarm) throw new RejectedRecordError('swarm', 'made for another swarm')
  return envelope
}

/** The peer id that belongs to an author's key. */
export function authorOf(envelope: Envelope): string {
  return peerIdFromPublicKey(keyOf(envelope)).toString()
}

/** Throws `RejectedRecordError` with reason `signature`. */
export async function checkSignature(envelope: Envelope): Promise<void> {
  const key = keyOf(envelope)
  let isGenuine = false
  try {
    isGenuine = await key.verify(signedBytes(envelopeBody(envelope)), envelope.signature)
  } catch {
    // The bytes are no point of the curve.
  }
  if (!isGenuine) throw new RejectedRecordError('signature', 'not signed by its author')
}

/** A document's topics as this node reads them. */
export interface ReadRecord {
  /** Topic → what tells its packed bytes from others. */
  readonly prints: ReadonlyMap<string, string>
  readonly topics: TopicRecord
}

export const NO_RECORD: ReadRecord = Object.freeze({ prints: new Map<string, string>(), topics: NO_TOPICS })

/**
 * Reads and validates every topic of a verified envelope; a topic whose bytes did not change since `previous` keeps its value, so
 * that a heartbeat costs no decoding and no new indexes. Throws `RejectedRecordError`.
 */
export function readRecord(envelope: Envelope, author: string, previous: ReadRecord): ReadRecord {
  if (envelope.kind === EnvelopeKind.goodbye) return NO_RECORD
  const packed = readAuthorUpdate(envelope.update, author, envelope.epoch)
  const values: Partial<Record<Topic, unknown>> = {}
  const prints = new Map<string, string>()
  for (const topic of TOPICS) {
    const bytes = packed.get(topic)
    if (bytes !== undefined) prints.set(topic, printOf(bytes))
    if (bytes !== undefined && prints.get(topic) === previous.prints.get(topic)) {
      values[topic] = previous.topics[topic]
      continue
    }
    try {
      values[topic] = bytes === undefined ? null : decodeTopic(topic, bytes)
    } catch (error) {
      throw new RejectedRecordError('topic', `topic ${topic} is not valid`, { cause: error })
    }
  }
  return { prints, topics: values as TopicRecord }
}

/** A digest and not the bytes, which would be kept in memory twice. */
function printOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('base64url')
}

function keyOf(envelope: Envelope): PublicKey {
  return publicKeyFromRaw(envelope.authorKey)
}
