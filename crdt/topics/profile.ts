import { ByteWriter } from '../../protocols/ledger/bytes.ts'
import { InvalidMessageError } from '../../protocols/wire/errors.ts'
import { LIMITS } from '../schema.ts'
import type { Profile } from '../schema.ts'
import type { TopicCodec } from './codec.ts'

/** Control characters, line separators and bidirectional overrides: names are shown in terminals and pages. */
// eslint-disable-next-line no-control-regex
const UNPRINTABLE = /[\p{Cc}\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/u

/** The budget came later: authors before it, and those that place nothing by themselves, end after `relayed`. */
export const profile: TopicCodec<Profile> = {
  encode(value) {
    const writer = new ByteWriter()
      .text(value.name)
      .text(value.version)
      .u8(value.relayed ? 1 : 0)
    if (value.budgetBytes !== undefined) writer.varint(value.budgetBytes)
    return writer.finish()
  },
  decode(reader) {
    const name = reader.text(LIMITS.maxNameBytes)
    const version = reader.text(LIMITS.maxVersionBytes)
    const relayed = reader.u8()
    if (UNPRINTABLE.test(name)) throw new InvalidMessageError('the name has characters that can not be shown')
    if (UNPRINTABLE.test(version)) throw new InvalidMessageError('the version has characters that can not be shown')
    if (relayed > 1) throw new InvalidMessageError(`relayed is 0 or 1, not ${relayed}`)
    const profile = { name, version, relayed: relayed === 1 }
    return reader.left === 0 ? profile : { ...profile, budgetBytes: reader.varint() }
  },
}
