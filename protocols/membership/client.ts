import { randomBytes } from 'node:crypto'
import type { Stream } from '@libp2p/interface'
import { lpStream } from '@libp2p/utils'
import { InvalidMessageError, PeerRefusedError } from '../wire/errors.ts'
import { decodeMessage, encodeMessage } from './messages.ts'
import type { Papers } from './messages.ts'
import { isProof, prove } from './proof.ts'
import type { Transcript } from './proof.ts'
import { MEMBERSHIP_LIMITS as LIMITS, NONCE_BYTES } from './protocol.ts'

export interface MembershipClientInit {
  readonly swarm: Uint8Array
  readonly key: Uint8Array
  /** Raw Ed25519 public keys of this side and of the peer. */
  readonly self: Uint8Array
  readonly peer: Uint8Array
  /** Whether the listener's credential is good. */
  readonly isAdmitted: (credential: Uint8Array) => boolean
  /** What this side shows. */
  readonly papers: (transcript: Transcript) => Papers | Promise<Papers>
  readonly signal: AbortSignal
}

/** What the dialling side has learnt once it returns. */
export interface MembershipResult {
  /** The listener's credential, checked; empty in an open swarm. */
  readonly peerCredential: Uint8Array
  /** The credential granted for a claim, not yet checked; empty otherwise. */
  readonly granted: Uint8Array
  /** How far the peer's clock is ahead of this node's, give or take half the round trip; milliseconds. */
  readonly clockAheadMs: number
}

/**
 * The dialling side of `/skein/membership/1`: 1. sends a nonce; 2. awaits the listener's nonce, proof and credential and checks them;
 * 3. sends its own proof and papers; 4. awaits the verdict. Ends with `PeerRefusedError` (status `wrongKey` or `notAdmitted` when this
 * side refuses the peer, else the peer's verdict), `InvalidMessageError`, or the signal's reason.
 */
export async function proveMembership(stream: Stream, init: MembershipClientInit): Promise<MembershipResult> {
  const { key, signal } = init
  const messages = lpStream(stream, { maxDataLength: LIMITS.maxMessageBytes })
  const dialerNonce = randomBytes(NONCE_BYTES)
  const sentAt = Date.now()
  await messages.write(encodeMessage({ kind: 'hello', nonce: dialerNonce }), { signal })
  const challenge = decodeMessage((await messages.read({ signal })).subarray(), 'challenge')
  const clockAheadMs = challenge.timeMs - (sentAt + Date.now()) / 2
  const transcript = { swarm: init.swarm, dialerNonce, listenerNonce: challenge.nonce, dialer: init.self, listener: init.peer }
  if (!isProof(challenge.mac, key, 'listener', transcript)) {
    throw new PeerRefusedError('wrongKey', 'the peer is of another swarm, or has another key for it')
  }
  if (!init.isAdmitted(challenge.credential)) throw new PeerRefusedError('notAdmitted', 'nobody of the swarm has admitted the peer')
  const papers = await init.papers(transcript)
  await messages.write(encodeMessage({ kind: 'proof', mac: prove(key, 'dialer', transcript), papers }), { signal })
  const { verdict, credential } = decodeMessage((await messages.read({ signal })).subarray(), 'verdict')
  if (verdict === 'malformed') throw new InvalidMessageError('the peer could not read our proof')
  if (verdict !== 'member') throw new PeerRefusedError(verdict, REFUSALS[verdict])
  return { peerCredential: challenge.credential, granted: credential, clockAheadMs }
}

const REFUSALS = Object.freeze({
  wrongKey: 'the peer is of another swarm, or this node has another key for it',
  notAdmitted: 'the peer does not know this node as a member: join with an invite',
  expired: 'the invite has expired: ask for a new one',
  usedUp: 'the invite has admitted as many nodes as it may: ask for a new one',
  askInviter: 'only the node that made the invite can admit: it has to be running',
})
