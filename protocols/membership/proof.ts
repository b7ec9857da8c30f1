import { createHmac, timingSafeEqual } from 'node:crypto'

/** What both sides of a connection put into their proofs: neither can be used on another connection, or by another peer. */
export interface Transcript {
  readonly swarm: Uint8Array
  readonly dialerNonce: Uint8Array
  readonly listenerNonce: Uint8Array
  /** Raw Ed25519 public keys, as the encrypted connection has authenticated them. */
  readonly dialer: Uint8Array
  readonly listener: Uint8Array
}

export type Role = 'dialer' | 'listener'

const CONTEXT = 'skein membership 1'

/** The bytes that stand for the connection, the same on both sides. */
export function transcriptBytes({ swarm, dialerNonce, listenerNonce, dialer, listener }: Transcript): Uint8Array {
  return Buffer.concat([swarm, dialerNonce, listenerNonce, dialer, listener])
}

/** HMAC-SHA-256 over role and transcript: shows that the side has the swarm's key, and shows nothing of the key. */
export function prove(key: Uint8Array, role: Role, transcript: Transcript): Uint8Array {
  return createHmac('sha256', key).update(`${CONTEXT}\0${role}\0`).update(transcriptBytes(transcript)).digest()
}

export function isProof(mac: Uint8Array, key: Uint8Array, role: Role, transcript: Transcript): boolean {
  const expected = prove(key, role, transcript)
  return mac.length === expected.length && timingSafeEqual(mac, expected)
}
