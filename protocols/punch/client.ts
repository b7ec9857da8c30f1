import type { Stream } from '@libp2p/interface'
import { setTimeout as sleep } from 'node:timers/promises'
import { PeerRefusedError } from '../wire/errors.ts'
import { punchExchange } from './exchange.ts'
import { PUNCH_LIMITS as LIMITS } from './protocol.ts'
import type { PunchSide, Reflector } from './protocol.ts'

export interface PunchClientOptions {
  readonly signal: AbortSignal
}

/**
 * Asks a peer for its reflectors. Rejects with the signal's reason, `InvalidMessageError`, `PeerRefusedError`, or an error of the stream;
 * all within `exchangeTimeoutMs`. The stream is closed or aborted at the end.
 */
export async function askReflectors(stream: Stream, options: PunchClientOptions): Promise<readonly Reflector[]> {
  return await within(stream, options, async (signal) => {
    const exchange = punchExchange(stream, signal)
    await exchange.send({ kind: 'ask' })
    const answer = await exchange.receive('reflectors', 'refusal')
    if (answer.kind === 'refusal') throw new PeerRefusedError(answer.status, `the peer names no reflectors: ${answer.status}`)
    return answer.reflectors
  })
}

/** What the peer answered. */
export interface Rendezvous {
  readonly theirs: PunchSide
  /** Time that a packet takes to the peer and back over the stream's path, in milliseconds. */
  readonly rttMs: number
}

/**
 * The life of an offer: 1. `offer` is sent; 2. the peer's `answer` comes, or its `refusal` → `PeerRefusedError`; 3. `go` is sent: the peer
 * begins when it arrives, this side half a round trip later, which it waits for here. All within `exchangeTimeoutMs`; rejections as with
 * {@link askReflectors}.
 */
export async function offerPunch(
  stream: Stream,
  offer: { readonly token: Uint8Array; readonly side: PunchSide },
  options: PunchClientOptions,
): Promise<Rendezvous> {
  return await within(stream, options, async (signal) => {
    const exchange = punchExchange(stream, signal)
    const startedAt = performance.now()
    await exchange.send({ kind: 'offer', ...offer })
    const answer = await exchange.receive('answer', 'refusal')
    if (answer.kind === 'refusal') throw new PeerRefusedError(answer.status, `the peer does not take part in a punch: ${answer.status}`)
    const rttMs = Math.max(0, performance.now() - startedAt - answer.delayMs)
    await exchange.send({ kind: 'go' })
    await sleep(rttMs / 2, undefined, { signal })
    return { theirs: answer.side, rttMs }
  })
}

async function within<T>(stream: Stream, options: PunchClientOptions, talk: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const signal = AbortSignal.any([options.signal, AbortSignal.timeout(LIMITS.exchangeTimeoutMs)])
  try {
    const result = await talk(signal)
    await stream.close({ signal })
    return result
  } catch (error) {
    stream.abort(error as Error)
    throw error
  }
}
