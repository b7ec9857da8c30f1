import { ByteWriter } from '../../protocols/ledger/bytes.ts'
import { InvalidMessageError } from '../../protocols/wire/errors.ts'
import type { Service } from '../schema.ts'
import type { TopicCodec } from './codec.ts'
import { readSketch, writeSketch } from './sketch.ts'

/** The sketch came later: authors before it end after p95, and readers before it stop there. */
export const service: TopicCodec<Service> = {
  encode(value) {
    const writer = new ByteWriter()
      .varint(value.served)
      .varint(value.busy)
      .varint(value.failed)
      .varint(Math.round(value.p50Us))
      .varint(Math.round(value.p95Us))
    if (value.latency !== undefined) writeSketch(writer, value.latency)
    return writer.finish()
  },
  decode(reader) {
    const value = {
      served: reader.varint(),
      busy: reader.varint(),
      failed: reader.varint(),
      p50Us: reader.varint(),
      p95Us: reader.varint(),
    }
    if (value.p95Us < value.p50Us) throw new InvalidMessageError(`p95 of ${value.p95Us} µs is below p50 of ${value.p50Us} µs`)
    return reader.left === 0 ? value : { ...value, latency: readSketch(reader) }
  },
}
