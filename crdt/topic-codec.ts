import { deflateRawSync, inflateRawSync } from 'node:zlib'
import { ByteReader, ByteWriter } from '../protocols/ledger/bytes.ts'
import { InvalidMessageError, LimitExceededError } from '../protocols/wire/errors.ts'
import { trimBitmap } from './bitmap.ts'
import { LIMITS } from './schema.ts'
import type { Holdings, Profile, Routing, RoutingCounts, Service, Topic, TopicValues } from './schema.ts'

/** Version of the packed form of every topic; a topic of another version is forwarded but not read. */
const TOPIC_VERSION = 1

const Coding = Object.freeze({ plain: 0, deflated: 1 } as const)

/** Below this many bytes deflate rarely gains more than its own overhead. */
const MIN_DEFLATE_BYTES = 64

/** Control characters, line separators and bidirectional overrides: names are shown in terminals and pages. */
// eslint-disable-next-line no-control-regex
const UNPRINTABLE = /[\p{Cc}\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/u
const MODEL = /^[A-Za-z0-9][A-Za-z0-9._-]*$/

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

interface TopicCodec<V> {
  encode(value: V): Uint8Array
  decode(reader: ByteReader): V
}

const profile: TopicCodec<Profile> = {
  encode: (value) =>
    new ByteWriter()
      .text(value.name)
      .text(value.version)
      .u8(value.relayed ? 1 : 0)
      .finish(),
  decode(reader) {
    const name = reader.text(LIMITS.maxNameBytes)
    const version = reader.text(LIMITS.maxVersionBytes)
    const relayed = reader.u8()
    if (UNPRINTABLE.test(name)) throw new InvalidMessageError('the name has characters that can not be shown')
    if (UNPRINTABLE.test(version)) throw new InvalidMessageError('the version has characters that can not be shown')
    if (relayed > 1) throw new InvalidMessageError(`relayed is 0 or 1, not ${relayed}`)
    return { name, version, relayed: relayed === 1 }
  },
}

const holdings: TopicCodec<Holdings> = {
  encode(value) {
    const models = [...value].map(([model, layers]) => ({ model, layers: trimLayers(layers) })).filter(({ layers }) => layers.length > 0)
    const writer = new ByteWriter().varint(models.length)
    for (const { model, layers } of models.sort((a, b) => (a.model < b.model ? -1 : 1))) {
      writer.text(model).varint(layers.length)
      for (const bitmap of layers) writer.varint(bitmap.length).raw(bitmap)
    }
    return writer.finish()
  },
  decode(reader) {
    let total = 0
    return readModels(reader, () => {
      const count = bounded(reader.varint(), 1, LIMITS.maxLayers, 'layers')
      total = bounded(total + count, 1, LIMITS.maxHoldingLayers, 'layers of all models')
      const layers: Uint8Array[] = []
      for (let layer = 0; layer < count; layer++) {
        const bitmap = reader.raw(bounded(reader.varint(), 0, LIMITS.maxExperts / 8, 'bytes of a bitmap')).slice()
        if (bitmap.at(-1) === 0) throw new InvalidMessageError('a bitmap ends in a zero byte')
        layers.push(bitmap)
      }
      if (layers.at(-1)!.length === 0) throw new InvalidMessageError('the last layer is empty')
      return layers
    })
  },
}

const routing: TopicCodec<Routing> = {
  encode(value) {
    const models = [...value].sort(([a], [b]) => (a < b ? -1 : 1))
    const writer = new ByteWriter().varint(models.length)
    for (const [model, { layers, experts, counts }] of models) {
      if (counts.length !== layers * experts) {
        throw new InvalidMessageError(`routing of ${model}: ${counts.length} counts for ${layers} layers of ${experts} experts`)
      }
      writer.text(model).varint(layers).varint(experts)
      for (let i = 0; i < counts.length; i++) writer.varint(counts[i]!)
    }
    return writer.finish()
  },
  decode(reader) {
    let cells = 0
    return readModels(reader, (): RoutingCounts => {
      const layers = bounded(reader.varint(), 1, LIMITS.maxLayers, 'layers')
      const experts = bounded(reader.varint(), 1, LIMITS.maxExperts, 'experts')
      cells += layers * experts
      if (cells > LIMITS.maxRoutingCells) throw new LimitExceededError(`routing of more than ${LIMITS.maxRoutingCells} experts`)
      // Every count has at least one byte: what is not there need not be allocated.
      if (layers * experts > reader.left) throw new InvalidMessageError(`${reader.left} bytes can not hold ${layers * experts} counts`)
      const counts = new Float64Array(layers * experts)
      let largest = 0
      for (let i = 0; i < counts.length; i++) {
        counts[i] = reader.varint()
        if (counts[i]! > largest) largest = counts[i]!
      }
      // Half the memory for every author whose counts allow it.
      return { layers, experts, counts: largest < 2 ** 32 ? Uint32Array.from(counts) : counts }
    })
  },
}

const service: TopicCodec<Service> = {
  encode: (value) =>
    new ByteWriter()
      .varint(value.served)
      .varint(value.busy)
      .varint(value.failed)
      .varint(Math.round(value.p50Us))
      .varint(Math.round(value.p95Us))
      .finish(),
  decode(reader) {
    const value = {
      served: reader.varint(),
      busy: reader.varint(),
      failed: reader.varint(),
      p50Us: reader.varint(),
      p95Us: reader.varint(),
    }
    if (value.p95Us < value.p50Us) throw new InvalidMessageError(`p95 of ${value.p95Us} µs is below p50 of ${value.p50Us} µs`)
    return value
  },
}

const CODECS: { readonly [T in Topic]: TopicCodec<TopicValues[T]> } = { profile, holdings, routing, service }

/** `[varint n]`, then per model, in strictly ascending order, its name and what `read` reads. */
function readModels<V>(reader: ByteReader, read: (model: string) => V): ReadonlyMap<string, V> {
  const count = bounded(reader.varint(), 0, LIMITS.maxModels, 'models')
  const models = new Map<string, V>()
  let last = ''
  for (let i = 0; i < count; i++) {
    const model = reader.text(LIMITS.maxModelBytes)
    if (!MODEL.test(model)) throw new InvalidMessageError('a model id has other characters than letters, digits, ".", "_" and "-"')
    if (model <= last) throw new InvalidMessageError('the models of a topic are not in order')
    last = model
    models.set(model, read(model))
  }
  return models
}

function trimLayers(layers: readonly Uint8Array[]): Uint8Array[] {
  // Not `map`: a hole in the array means a layer without experts.
  const trimmed = Array.from(layers, (bitmap: Uint8Array | undefined) => trimBitmap(bitmap ?? new Uint8Array()))
  while (trimmed.length > 0 && trimmed.at(-1)!.length === 0) trimmed.pop()
  return trimmed
}

function bounded(value: number, min: number, max: number, what: string): number {
  if (value < min) throw new InvalidMessageError(`${value} ${what}`)
  if (value > max) throw new LimitExceededError(`${value} ${what} exceed ${max}`)
  return value
}

function inflate(topic: Topic, bytes: Uint8Array): Uint8Array {
  try {
    return inflateRawSync(bytes, { maxOutputLength: LIMITS.maxInflatedBytes })
  } catch (error) {
    throw new InvalidMessageError(`topic ${topic} does not inflate to ${LIMITS.maxInflatedBytes} bytes or fewer`, { cause: error })
  }
}
