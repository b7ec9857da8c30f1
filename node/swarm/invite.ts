import { createHash, createPrivateKey, createPublicKey, randomBytes, sign } from 'node:crypto'
import { multiaddr } from '@multiformats/multiaddr'
import type { Multiaddr } from '@multiformats/multiaddr'
import { decodeTerms, encodeTerms, KEY_BYTES } from '../../protocols/membership/index.ts'
import type { InviteTerms } from '../../protocols/membership/index.ts'
import { ConfigError } from '../errors.ts'

/** What lets somebody into a private swarm. */
export interface InviteKeys {
  readonly secret: Uint8Array
  readonly founder: Uint8Array
  /** Private half of `terms.inviteKey`. */
  readonly seed: Uint8Array
  readonly terms: InviteTerms
}

/** A swarm, ways to it, and, where it is private, the keys. */
export interface Invite {
  readonly name: string
  /** Milliseconds since 1970. */
  readonly expiresAt: number
  readonly addresses: readonly Multiaddr[]
  /** null for an open swarm. */
  readonly keys: InviteKeys | null
}

const PREFIX = 'skein1'
const VERSION = 1
const CHECK_BYTES = 4
const TERMS_BYTES = 2 * KEY_BYTES + 8 + 2 + 64
/** Longest invite read: its addresses are the bulk of it. */
const MAX_CHARACTERS = 4_096
/** Addresses that an invite carries: more would not fit a QR code that a phone can read. */
export const MAX_INVITE_ADDRESSES = 5
/** What an Ed25519 private key begins with as PKCS #8 (RFC 8410). */
const PKCS8_PREFIX = Buffer.from('302e020100300506032b657004220420', 'hex')

export function encodeInvite({ name, expiresAt, addresses, keys }: Invite): string {
  const numbers = Buffer.alloc(8)
  numbers.writeBigUInt64BE(BigInt(expiresAt))
  const parts: Uint8Array[] = [Buffer.of(VERSION, keys === null ? 0 : 1, Buffer.byteLength(name)), Buffer.from(name), numbers]
  parts.push(Buffer.of(addresses.length))
  for (const { bytes } of addresses) parts.push(Buffer.of(bytes.length >> 8, bytes.length & 0xff), bytes)
  if (keys !== null) parts.push(keys.secret, keys.founder, keys.seed, encodeTerms(keys.terms))
  const payload = Buffer.concat(parts)
  return PREFIX + Buffer.concat([payload, checkOf(payload)]).toString('base64url')
}

/** Throws `ConfigError` saying what is wrong with the text and what to do. White space from pasting is ignored. */
export function decodeInvite(text: string): Invite {
  const compact = text.replaceAll(/\s+/g, '')
  const again = 'copy the whole line that "skein invite" printed'
  if (!compact.startsWith(PREFIX)) throw new ConfigError(`this is no invite (one begins with "${PREFIX}"): ${again}`)
  if (compact.length > MAX_CHARACTERS) throw new ConfigError(`the invite is too long: ${again}, and nothing else`)
  const bytes = Buffer.from(compact.slice(PREFIX.length), 'base64url')
  const payload = bytes.subarray(0, -CHECK_BYTES)
  if (bytes.length <= CHECK_BYTES || !bytes.subarray(-CHECK_BYTES).equals(checkOf(payload)))
    throw new ConfigError(`the invite is damaged or cut off: ${again}`)
  try {
    return parse(payload)
  } catch (error) {
    if (error instanceof ConfigError) throw error
    throw new ConfigError(`the invite cannot be read (${(error as Error).message}): ask for a new one`, { cause: error })
  }
}

function parse(payload: Buffer): Invite {
  let at = 0
  const take = (length: number): Buffer => {
    if (at + length > payload.length) throw new Error('it ends too early')
    return payload.subarray(at, (at += length))
  }
  const [version, flags, nameBytes] = take(3) as unknown as [number, number, number]
  if (version !== VERSION) throw new ConfigError(`the invite is of version ${version}, this skein reads ${VERSION}: update skein`)
  const name = take(nameBytes).toString('utf8')
  if (!/^[a-z0-9][a-z0-9-]{0,31}$/.test(name)) throw new Error('its swarm has an impossible name')
  const expiresAt = Number(take(8).readBigUInt64BE())
  const count = take(1)[0]!
  if (count > MAX_INVITE_ADDRESSES) throw new Error('it has too many addresses')
  const addresses = Array.from({ length: count }, () => multiaddr(Uint8Array.from(take(take(2).readUInt16BE()))))
  if (addresses.some((address) => address.getComponents().at(-1)?.name !== 'p2p')) throw new Error('an address names no peer')
  const own = (length: number): Uint8Array => Uint8Array.from(take(length))
  const keys =
    flags === 0 ? null : { secret: own(KEY_BYTES), founder: own(KEY_BYTES), seed: own(KEY_BYTES), terms: decodeTerms(own(TERMS_BYTES)) }
  if (keys !== null && !Buffer.from(inviteKeyOf(keys.seed)).equals(keys.terms.inviteKey)) throw new Error('its keys do not match')
  return { name, expiresAt, addresses, keys }
}

/** A seed for one invite. */
export function newSeed(): Uint8Array {
  return randomBytes(KEY_BYTES)
}

/** Raw Ed25519 public key of a seed. */
export function inviteKeyOf(seed: Uint8Array): Uint8Array {
  return createPublicKey(privateKeyOf(seed)).export({ format: 'der', type: 'spki' }).subarray(-KEY_BYTES)
}

/** Signs with the invite's own key. */
export function signWithSeed(seed: Uint8Array, bytes: Uint8Array): Uint8Array {
  return sign(null, bytes, privateKeyOf(seed))
}

function privateKeyOf(seed: Uint8Array): ReturnType<typeof createPrivateKey> {
  return createPrivateKey({ key: Buffer.concat([PKCS8_PREFIX, seed]), format: 'der', type: 'pkcs8' })
}

function checkOf(payload: Uint8Array): Buffer {
  return createHash('sha256').update(payload).digest().subarray(0, CHECK_BYTES)
}
