import { InvalidMessageError, LimitExceededError } from '../wire/errors.ts'
import { addressBytes, addressText } from './address.ts'
import { Mapping, MessageKind, PUNCH_LIMITS as LIMITS, Status, TOKEN_BYTES } from './protocol.ts'
import type { Endpoint, MappingKind, PunchSide, Reach, Reflector } from './protocol.ts'

/** How a refusal is called; a number of the future is `unknown`. */
export type RefusalName = keyof typeof Status | 'unknown'

export type PunchMessage =
  | { readonly kind: 'ask' }
  | { readonly kind: 'reflectors'; readonly reflectors: readonly Reflector[] }
  | { readonly kind: 'offer'; readonly token: Uint8Array; readonly side: PunchSide }
  /** `delayMs`: how long the answering side took, to be taken off the round trip. */
  | { readonly kind: 'answer'; readonly side: PunchSide; readonly delayMs: number }
  | { readonly kind: 'go' }
  | { readonly kind: 'refusal'; readonly status: RefusalName }

const MAX_DELAY_MS = 0xffff

export function encodeMessage(message: PunchMessage): Uint8Array {
  const kind = MessageKind[message.kind]
  switch (message.kind) {
    case 'ask':
    case 'go':
      return Uint8Array.of(kind)
    case 'reflectors':
      return Uint8Array.from([
        kind,
        checkCount(message.reflectors.length, LIMITS.maxReflectors),
        ...message.reflectors.flatMap(({ transport, port }) => [transport === 'udp' ? 1 : 2, ...u16(port)]),
      ])
    case 'offer':
      if (message.token.length !== TOKEN_BYTES) throw new InvalidMessageError(`a token of ${message.token.length} bytes`)
      return Uint8Array.from([kind, ...message.token, ...sideBytes(message.side)])
    case 'answer':
      return Uint8Array.from([kind, ...u16(Math.min(MAX_DELAY_MS, Math.round(message.delayMs))), ...sideBytes(message.side)])
    case 'refusal':
      return Uint8Array.from([kind, ...u16(message.status === 'unknown' ? 0 : Status[message.status])])
  }
}

/** Throws `InvalidMessageError` or `LimitExceededError`; bytes after the known fields are ignored. */
export function decodeMessage(bytes: Uint8Array): PunchMessage {
  if (bytes.length > LIMITS.maxMessageBytes) throw new LimitExceededError(`a punch message of ${bytes.length} bytes`)
  const reader = new Reader(bytes)
  const kind = reader.u8()
  switch (kind) {
    case MessageKind.ask:
      return { kind: 'ask' }
    case MessageKind.go:
      return { kind: 'go' }
    case MessageKind.reflectors: {
      const reflectors: Reflector[] = []
      for (let left = checkCount(reader.u8(), LIMITS.maxReflectors); left > 0; left--) {
        const transport = reader.u8()
        const port = reader.port()
        // Other transports may come; they are of no use to this revision.
        if (transport === 1 || transport === 2) reflectors.push({ transport: transport === 1 ? 'udp' : 'tcp', port })
      }
      return { kind: 'reflectors', reflectors }
    }
    case MessageKind.offer:
      return { kind: 'offer', token: reader.bytes(TOKEN_BYTES).slice(), side: readSide(reader) }
    case MessageKind.answer: {
      const delayMs = reader.u16()
      return { kind: 'answer', side: readSide(reader), delayMs }
    }
    case MessageKind.refusal: {
      const status = reader.u16()
      const known = (Object.keys(Status) as (keyof typeof Status)[]).find((name) => Status[name] === status)
      return { kind: 'refusal', status: known ?? 'unknown' }
    }
    default:
      throw new InvalidMessageError(`a punch message of kind ${kind}`)
  }
}

function sideBytes({ udp, tcp }: PunchSide): number[] {
  return [...reachBytes(udp), ...reachBytes(tcp)]
}

function reachBytes({ mapping, endpoints }: Reach): number[] {
  return [
    Mapping[mapping],
    checkCount(endpoints.length, LIMITS.maxEndpoints),
    ...endpoints.flatMap(({ address, port }) => {
      const bytes = addressBytes(address)
      return [bytes.length, ...bytes, ...u16(port)]
    }),
  ]
}

function readSide(reader: Reader): PunchSide {
  return { udp: readReach(reader), tcp: readReach(reader) }
}

function readReach(reader: Reader): Reach {
  const number = reader.u8()
  const mapping = (Object.keys(Mapping) as MappingKind[]).find((name) => Mapping[name] === number)
  if (mapping === undefined) throw new InvalidMessageError(`a mapping of kind ${number}`)
  const endpoints: Endpoint[] = []
  for (let left = checkCount(reader.u8(), LIMITS.maxEndpoints); left > 0; left--) {
    const length = reader.u8()
    if (length !== 4 && length !== 16) throw new InvalidMessageError(`an address of ${length} bytes`)
    const address = addressText(reader.bytes(length))
    endpoints.push({ address, port: reader.port() })
  }
  return { mapping, endpoints }
}

function u16(value: number): [number, number] {
  return [value >> 8, value & 0xff]
}

function checkCount(count: number, most: number): number {
  if (count > most) throw new LimitExceededError(`${count} entries in a list of at most ${most}`)
  return count
}

/** Big-endian, as addresses and ports are everywhere. */
class Reader {
  readonly #bytes: Uint8Array
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  u8(): number {
    return this.bytes(1)[0]!
  }

  u16(): number {
    const [high, low] = this.bytes(2) as unknown as [number, number]
    return high * 256 + low
  }

  port(): number {
    const port = this.u16()
    if (port === 0) throw new InvalidMessageError('port 0')
    return port
  }

  bytes(length: number): Uint8Array {
    if (this.#at + length > this.#bytes.length) throw new InvalidMessageError('a punch message ends too soon')
    this.#at += length
    return this.#bytes.subarray(this.#at - length, this.#at)
  }
}
