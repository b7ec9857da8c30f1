import { InvalidMessageError } from '../wire/errors.ts'
import { isSignedBy, u64 } from './credential.ts'
import type { Sign } from './credential.ts'
import { transcriptBytes } from './proof.ts'
import type { Transcript } from './proof.ts'
import { KEY_BYTES, SIGNATURE_BYTES } from './protocol.ts'

/** What an inviter signs: whoever has the private half of `inviteKey` may be admitted. */
export interface InviteTerms {
  /** Raw Ed25519 public key of the member who invites. */
  readonly inviter: Uint8Array
  /** Raw Ed25519 public key made for this invite alone. */
  readonly inviteKey: Uint8Array
  /** Milliseconds since 1970. */
  readonly expiresAt: number
  /** Peers that it admits; 0 for any number. */
  readonly uses: number
  readonly signature: Uint8Array
}

/** The terms, shown by somebody who has the invite's private key. */
export interface InviteClaim extends InviteTerms {
  readonly possession: Uint8Array
}

const TERMS_CONTEXT = Buffer.from('skein invite 1\0')
const CLAIM_CONTEXT = Buffer.from('skein claim 1\0')
const TERMS_BYTES = 2 * KEY_BYTES + 8 + 2 + SIGNATURE_BYTES
export const MAX_USES = 0xffff

export async function signTerms(swarm: Uint8Array, terms: Omit<InviteTerms, 'signature'>, sign: Sign): Promise<InviteTerms> {
  return { ...terms, signature: await sign(termsBytes(swarm, terms)) }
}

/** Whether the inviter has signed the terms; whether it may invite is another question. */
export function areTermsSigned(swarm: Uint8Array, terms: InviteTerms): boolean {
  return isSignedBy(terms.inviter, termsBytes(swarm, terms), terms.signature)
}

/** The bytes that the holder of the invite signs on this connection, and on no other. */
export function possessionBytes(transcript: Transcript): Uint8Array {
  return Buffer.concat([CLAIM_CONTEXT, transcriptBytes(transcript)])
}

export function isPossessed(claim: InviteClaim, transcript: Transcript): boolean {
  return isSignedBy(claim.inviteKey, possessionBytes(transcript), claim.possession)
}

export function encodeTerms({ inviter, inviteKey, expiresAt, uses, signature }: InviteTerms): Uint8Array {
  return Buffer.concat([inviter, inviteKey, u64(expiresAt), u16(uses), signature])
}

/** Throws `InvalidMessageError`. */
export function decodeTerms(bytes: Uint8Array): InviteTerms {
  if (bytes.length !== TERMS_BYTES) throw new InvalidMessageError(`invite terms of ${bytes.length} bytes`)
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  const numbers = 2 * KEY_BYTES
  return {
    inviter: Uint8Array.from(view.subarray(0, KEY_BYTES)),
    inviteKey: Uint8Array.from(view.subarray(KEY_BYTES, numbers)),
    expiresAt: Number(view.readBigUInt64BE(numbers)),
    uses: view.readUInt16BE(numbers + 8),
    signature: Uint8Array.from(view.subarray(numbers + 10)),
  }
}

export function encodeClaim(claim: InviteClaim): Uint8Array {
  return Buffer.concat([encodeTerms(claim), claim.possession])
}

/** Throws `InvalidMessageError`. */
export function decodeClaim(bytes: Uint8Array): InviteClaim {
  if (bytes.length !== TERMS_BYTES + SIGNATURE_BYTES) throw new InvalidMessageError(`an invite claim of ${bytes.length} bytes`)
  return { ...decodeTerms(bytes.subarray(0, TERMS_BYTES)), possession: Uint8Array.from(bytes.subarray(TERMS_BYTES)) }
}

function termsBytes(swarm: Uint8Array, { inviter, inviteKey, expiresAt, uses }: Omit<InviteTerms, 'signature'>): Uint8Array {
  return Buffer.concat([TERMS_CONTEXT, swarm, inviter, inviteKey, u64(expiresAt), u16(uses)])
}

function u16(value: number): Buffer {
  const bytes = Buffer.alloc(2)
  bytes.writeUInt16BE(value)
  return bytes
}
