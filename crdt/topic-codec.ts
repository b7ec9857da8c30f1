import { deflateRawSync, inflateRawSync } from 'node:zlib'
import { ByteReader, ByteWriter } from '../protocols/ledger/bytes.ts'
import { InvalidMessageError, LimitExceededError } from '../protocols/wire/errors.ts'
import { LIMITS } from './schema.ts'
import type { Topic, TopicValues } from './schema.ts'
import type { TopicCodec } from './topics/codec.ts'
import { holdings } from './topics/holdings.ts'
import { observed } from './topics/observed.ts'
import { profile } from './topics/profile.ts'
import { routing } from './topics/routing.ts'
import { service } from './topics/service.ts'

/** Version of the packed form of every topic; a topic of another version is forwarded but not read. */
const TOPIC_VERSION = 1

const Coding = Object.freeze({ plain: 0, deflated: 1 } as const)

/** Below this many bytes deflate rarely gains more than its own overhead. */
const MIN_DEFLATE_BYTES = 64

const CODECS: { readonly [T in Topic]: TopicCodec<TopicValues[T]> } = { profile, holdings, leaving: holdings, routing, service, observed }

/**
 * Packs a topic: `[u8 version][u8 coding][fields]`. The same value gives the same fields.
 * Throws `InvalidMessageError` or `LimitExceededError` for a value that {@link decodeTopic} would refuse.
 */
export function encodeTopic<T extends Topic>(topic: T, value: TopicValues[T]): Uint8Array {
  const fields = CODECS[topic].encode(value)
  const deflated = fields.length < MIN_DEFLATE_BYTES ? null : deflateRawSync(fields, { level: 9 })
  const packed = deflated !== null && deflated.length < fields.length
  const bytes = new ByteWriter()
    .u8(TOPIC_VERSION)
    .u8(packed ? Coding.deflated : Coding.plain)
    .raw(packed ? deflated : fields)
    .finish()
  if (bytes.length > LIMITS.maxTopicBytes) {
    throw new LimitExceededError(`topic ${topic} packs to ${bytes.length} bytes, ${LIMITS.maxTopicBytes} are allowed: state fewer models`)
  }
  decodeTopic(topic, bytes)
  return bytes
}

/**
 * Unpacks and validates a topic; null when it is of a version that this node doesn't read. Bytes after the last known field are
 * left to later revisions. Throws `InvalidMessageError` or `LimitExceededError`.
 */
export function decodeTopic<T extends Topic>(topic: T, bytes: Uint8Array): TopicValues[T] | null {
  if (bytes.length > LIMITS.maxTopicBytes) throw new LimitExceededError(`topic ${topic} of ${bytes.length} bytes`)
  const reader = new ByteReader(bytes)
  if (reader.u8() !== TOPIC_VERSION) return null
  const coding = reader.u8()
  const rest = reader.raw(reader.left)
  if (coding !== Coding.plain && coding !== Coding.deflated) throw new InvalidMessageError(`topic ${topic} has unknown coding ${coding}`)
  return CODECS[topic].decode(new ByteReader(coding === Coding.plain ? rest : inflate(topic, rest)))
}

function inflate(topic: Topic, bytes: Uint8Array): Uint8Array {
  try {
    return inflateRawSync(bytes, { maxOutputLength: LIMITS.maxInflatedBytes })
  } catch (error) {
    throw new InvalidMessageError(`topic ${topic} does not inflate to ${LIMITS.maxInflatedBytes} bytes or fewer`, { cause: error })
  }
}
