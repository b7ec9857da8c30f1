import { randomBytes } from 'node:crypto'
import type { Stream } from '@libp2p/interface'
import { lpStream } from '@libp2p/utils'
import { isMeshError } from '../wire/errors.ts'
import { decodeMessage, encodeMessage } from './messages.ts'
import type { Papers } from './messages.ts'
import { isProof, prove } from './proof.ts'
import type { Transcript } from './proof.ts'
import { MEMBERSHIP_LIMITS as LIMITS, NONCE_BYTES } from './protocol.ts'
import type { VerdictName } from './protocol.ts'

export interface MembershipHandlerInit {
  readonly swarm: Uint8Array
  readonly key: Uint8Array
  /** Raw Ed25519 public keys of this side and of the peer. */
  readonly self: Uint8Array
  readonly peer: Uint8Array
  /** This side's credential; empty in an open swarm and while it has none. */
  readonly credential: Uint8Array
  /** Decides over the dialler's papers once it has proved that it has the key. */
  readonly judge: (papers: Papers, transcript: Transcript) => Judgement | Promise<Judgement>
  readonly signal: AbortSignal
}

export interface Judgement {
  readonly verdict: VerdictName
  /** Granted for a claim. */
  readonly credential?: Uint8Array
}

/**
 * The listening side of `/skein/membership/1`. Resolves with its verdict once it was sent; rejects when the conversation breaks off or
 * the signal fires. A dialler without the key learns nothing but a keyed hash over nonces, and this side's credential.
 */
export async function judgeMembership(stream: Stream, init: MembershipHandlerInit): Promise<VerdictName> {
  const { key, signal } = init
  const messages = lpStream(stream, { maxDataLength: LIMITS.maxMessageBytes })
  const answer = async ({ verdict, credential = new Uint8Array() }: Judgement): Promise<VerdictName> => {
    await messages.write(encodeMessage({ kind: 'verdict', verdict, credential }), { signal })
    await stream.close({ signal })
    return verdict
  }
  try {
    const hello = decodeMessage((await messages.read({ signal })).subarray(), 'hello')
    const listenerNonce = randomBytes(NONCE_BYTES)
    const transcript = { swarm: init.swarm, dialerNonce: hello.nonce, listenerNonce, dialer: init.peer, listener: init.self }
    const mac = prove(key, 'listener', transcript)
    await messages.write(encodeMessage({ kind: 'challenge', nonce: listenerNonce, mac, timeMs: Date.now(), credential: init.credential }), {
      signal,
    })
    const proof = decodeMessage((await messages.read({ signal })).subarray(), 'proof')
    if (!isProof(proof.mac, key, 'dialer', transcript)) return await answer({ verdict: 'wrongKey' })
    return await answer(await init.judge(proof.papers, transcript))
  } catch (error) {
    if (isMeshError(error, 'InvalidMessageError')) return await answer({ verdict: 'malformed' })
    throw error
  }
}
