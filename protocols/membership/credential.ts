import { createPublicKey, verify } from 'node:crypto'
import { InvalidMessageError } from '../wire/errors.ts'
import { KEY_BYTES, MEMBERSHIP_LIMITS as LIMITS, SIGNATURE_BYTES } from './protocol.ts'

/** Signs with a peer's Ed25519 key. */
export type Sign = (bytes: Uint8Array) => Uint8Array | Promise<Uint8Array>

/** One member's word for the next. */
export interface CredentialLink {
  /** Raw Ed25519 public key of whom it admits. */
  readonly subject: Uint8Array
  /** Milliseconds since 1970, by the issuer's clock. */
  readonly issuedAt: number
  /** By the subject of the link before, for the first link by the founder. */
  readonly signature: Uint8Array
}

/** How a member came in: from the founder, who needs no link, to itself. */
export type Credential = readonly CredentialLink[]

const LINK_BYTES = KEY_BYTES + 8 + SIGNATURE_BYTES
const LINK_CONTEXT = Buffer.from('skein credential 1\0')
/** What an Ed25519 public key begins with as SubjectPublicKeyInfo (RFC 8410). */
const SPKI_PREFIX = Buffer.from('302a300506032b6570032100', 'hex')

export function encodeCredential(credential: Credential): Uint8Array {
  return Buffer.concat(credential.map(({ subject, issuedAt, signature }) => Buffer.concat([subject, u64(issuedAt), signature])))
}

/** Throws `InvalidMessageError` when the bytes are no credential; says nothing of its truth. */
export function decodeCredential(bytes: Uint8Array): Credential {
  if (bytes.length % LINK_BYTES !== 0) throw new InvalidMessageError(`a credential of ${bytes.length} bytes`)
  const count = bytes.length / LINK_BYTES
  if (count > LIMITS.maxCredentialLinks) throw new InvalidMessageError(`a credential of ${count} links`)
  const view = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length)
  return Array.from({ length: count }, (_, i) => {
    const at = i * LINK_BYTES
    return {
      subject: Uint8Array.from(view.subarray(at, at + KEY_BYTES)),
      issuedAt: Number(view.readBigUInt64BE(at + KEY_BYTES)),
      signature: Uint8Array.from(view.subarray(at + KEY_BYTES + 8, at + LINK_BYTES)),
    }
  })
}

/** The issuer's credential and one link more. Throws `InvalidMessageError` when there would be too many. */
export async function extendCredential(
  init: { readonly swarm: Uint8Array; readonly issuer: Uint8Array; readonly credential: Credential; readonly sign: Sign },
  subject: Uint8Array,
  issuedAt: number,
): Promise<Credential> {
  if (init.credential.length >= LIMITS.maxCredentialLinks) {
    throw new InvalidMessageError(`this node is ${LIMITS.maxCredentialLinks} invites away from the founder: somebody nearer has to invite`)
  }
  const signature = await init.sign(linkBytes(init.swarm, init.issuer, subject, issuedAt))
  return [...init.credential, { subject, issuedAt, signature }]
}

/** Whether the credential leads from the founder to `subject`, each link signed by the one before. */
export function isCredentialOf(credential: Credential, init: { swarm: Uint8Array; founder: Uint8Array; subject: Uint8Array }): boolean {
  let issuer = init.founder
  for (const link of credential) {
    if (!isSignedBy(issuer, linkBytes(init.swarm, issuer, link.subject, link.issuedAt), link.signature)) return false
    issuer = link.subject
  }
  return Buffer.compare(issuer, init.subject) === 0
}

/** Checks an Ed25519 signature under a raw public key; false for a key that is none. */
export function isSignedBy(publicKey: Uint8Array, bytes: Uint8Array, signature: Uint8Array): boolean {
  try {
    const key = createPublicKey({ key: Buffer.concat([SPKI_PREFIX, publicKey]), format: 'der', type: 'spki' })
    return verify(null, bytes, key, signature)
  } catch {
    return false
  }
}

export function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

function linkBytes(swarm: Uint8Array, issuer: Uint8Array, subject: Uint8Array, issuedAt: number): Uint8Array {
  return Buffer.concat([LINK_CONTEXT, swarm, issuer, subject, u64(issuedAt)])
}
