import { InvalidMessageError } from '../wire/errors.ts'
import { u64 } from './credential.ts'
import { MAC_BYTES, MessageKind, NONCE_BYTES, PapersKind, Verdict } from './protocol.ts'
import type { VerdictName } from './protocol.ts'

/** What a dialler shows: the credential of a member, the claim of somebody invited, or nothing, as in an open swarm. */
export interface Papers {
  readonly kind: keyof typeof PapersKind
  readonly bytes: Uint8Array
}

export type MembershipMessage =
  | { readonly kind: 'hello'; readonly nonce: Uint8Array }
  | {
      readonly kind: 'challenge'
      readonly nonce: Uint8Array
      readonly mac: Uint8Array
      readonly timeMs: number
      readonly credential: Uint8Array
    }
  | { readonly kind: 'proof'; readonly mac: Uint8Array; readonly papers: Papers }
  /** `credential` is not empty when a claim was granted. */
  | { readonly kind: 'verdict'; readonly verdict: VerdictName; readonly credential: Uint8Array }

const TIME_BYTES = 8
const KINDS = invert(MessageKind)
const PAPERS = invert(PapersKind)
const VERDICTS = invert(Verdict)

export function encodeMessage(message: MembershipMessage): Uint8Array {
  const kind = Buffer.of(MessageKind[message.kind])
  switch (message.kind) {
    case 'hello':
      return Buffer.concat([kind, message.nonce])
    case 'challenge':
      return Buffer.concat([kind, message.nonce, message.mac, u64(message.timeMs), message.credential])
    case 'proof':
      return Buffer.concat([kind, message.mac, Buffer.of(PapersKind[message.papers.kind]), message.papers.bytes])
    case 'verdict': {
      const verdict = Buffer.alloc(2)
      verdict.writeUInt16BE(Verdict[message.verdict])
      return Buffer.concat([kind, verdict, message.credential])
    }
  }
}

/** Throws `InvalidMessageError` when the bytes are no message of the kind that is due. */
export function decodeMessage<K extends MembershipMessage['kind']>(
  bytes: Uint8Array,
  due: K,
): Extract<MembershipMessage, { readonly kind: K }> {
  const message = decode(bytes)
  if (message.kind !== due) throw new InvalidMessageError(`a ${message.kind} where a ${due} was due`)
  return message as Extract<MembershipMessage, { readonly kind: K }>
}

function decode(bytes: Uint8Array): MembershipMessage {
  const kind = KINDS.get(bytes[0] ?? -1)
  const take = (from: number, length: number): Uint8Array => {
    if (bytes.length < from + length) throw new InvalidMessageError(`a ${kind} of ${bytes.length} bytes`)
    return bytes.slice(from, from + length)
  }
  switch (kind) {
    case 'hello':
      return { kind, nonce: take(1, NONCE_BYTES) }
    case 'challenge': {
      const time = Buffer.from(take(1 + NONCE_BYTES + MAC_BYTES, TIME_BYTES)).readBigUInt64BE()
      return {
        kind,
        nonce: take(1, NONCE_BYTES),
        mac: take(1 + NONCE_BYTES, MAC_BYTES),
        timeMs: Number(time),
        credential: bytes.slice(1 + NONCE_BYTES + MAC_BYTES + TIME_BYTES),
      }
    }
    case 'proof': {
      const mac = take(1, MAC_BYTES)
      const papers = PAPERS.get(take(1 + MAC_BYTES, 1)[0]!)
      if (papers === undefined) throw new InvalidMessageError('a proof with papers of an unknown kind')
      return { kind, mac, papers: { kind: papers, bytes: bytes.slice(2 + MAC_BYTES) } }
    }
    case 'verdict': {
      const [high, low] = take(1, 2) as unknown as [number, number]
      // A verdict of the future is a refusal.
      return { kind, verdict: VERDICTS.get(high * 256 + low) ?? 'notAdmitted', credential: bytes.slice(3) }
    }
    default:
      throw new InvalidMessageError(`a message of the unknown kind ${bytes[0]}`)
  }
}

function invert<K extends string>(codes: Readonly<Record<K, number>>): ReadonlyMap<number, K> {
  return new Map((Object.entries(codes) as [K, number][]).map(([name, code]) => [code, name]))
}
