import type { ByteReader } from '../../protocols/ledger/bytes.ts'
import { InvalidMessageError, LimitExceededError } from '../../protocols/wire/errors.ts'
import { LIMITS } from '../schema.ts'

/** The fields of one topic as bytes; both ways throw `InvalidMessageError` or `LimitExceededError` for what the topic does not allow. */
export interface TopicCodec<V> {
  encode(value: V): Uint8Array
  decode(reader: ByteReader): V
}

const MODEL = /^[A-Za-z0-9][A-Za-z0-9._-]*$/

/** `[varint n]`, then per model, in strictly ascending order, its name and what `read` reads. */
export function readModels<V>(reader: ByteReader, read: (model: string) => V): ReadonlyMap<string, V> {
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

/** The value, if it lies within the bounds; throws `InvalidMessageError` below them and `LimitExceededError` above. */
export function bounded(value: number, min: number, max: number, what: string): number {
  if (value < min) throw new InvalidMessageError(`${value} ${what}`)
  if (value > max) throw new LimitExceededError(`${value} ${what} exceed ${max}`)
  return value
}
