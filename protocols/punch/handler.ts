import type { Stream } from '@libp2p/interface'
import { isMeshError } from '../wire/errors.ts'
import { punchExchange } from './exchange.ts'
import type { PunchExchange } from './exchange.ts'
import { PUNCH_LIMITS as LIMITS } from './protocol.ts'
import type { PunchSide, Reflector } from './protocol.ts'
import type { RefusalName } from './messages.ts'

/** What one side offers, with whatever it wants back when the punch begins. */
export interface DescribedSide {
  readonly side: PunchSide
}

export interface PunchHandlerInit<T extends DescribedSide> {
  /** The ports on which this node reflects; opens them if need be. */
  reflectors(): Promise<readonly Reflector[]>
  /** This node's side of a punch with the peer, or why not. */
  describe(peer: string): Promise<T | RefusalName>
  /** Begins at once; not waited for. */
  begin(peer: string, token: Uint8Array, mine: T, theirs: PunchSide): void
  /** Hears of exchanges that failed. */
  onFailure?(peer: string, error: Error): void
  /** Ends every exchange. */
  readonly signal: AbortSignal
}

/** The serving side of `/skein/punch/1`, for `libp2p.handle`: bounded in time, bytes and number; never throws. */
export function createPunchHandler<T extends DescribedSide>(init: PunchHandlerInit<T>): (stream: Stream, peer: string) => Promise<void> {
  let served = 0
  const lastOffer = new Map<string, number>()

  const refuse = async (exchange: PunchExchange, status: RefusalName): Promise<void> => await exchange.send({ kind: 'refusal', status })

  const serve = async (exchange: PunchExchange, peer: string): Promise<void> => {
    const first = await exchange.receive('ask', 'offer')
    if (first.kind === 'ask') return await exchange.send({ kind: 'reflectors', reflectors: await init.reflectors() })
    const now = performance.now()
    if (served > LIMITS.maxAttempts || now - (lastOffer.get(peer) ?? -Infinity) < LIMITS.minOfferIntervalMs)
      return await refuse(exchange, 'busy')
    // Only those of the last second count.
    if (lastOffer.size >= MAX_REMEMBERED) lastOffer.clear()
    lastOffer.set(peer, now)
    const mine = await init.describe(peer)
    if (typeof mine === 'string') return await refuse(exchange, mine)
    await exchange.send({ kind: 'answer', side: mine.side, delayMs: performance.now() - now })
    await exchange.receive('go')
    init.begin(peer, first.token, mine, first.side)
  }

  return async (stream, peer) => {
    const signal = AbortSignal.any([init.signal, AbortSignal.timeout(LIMITS.exchangeTimeoutMs)])
    const exchange = punchExchange(stream, signal)
    served++
    try {
      await serve(exchange, peer)
      await stream.close({ signal })
    } catch (error) {
      const isMalformed = isMeshError(error, 'InvalidMessageError') || isMeshError(error, 'LimitExceededError')
      await refuse(exchange, isMalformed ? 'malformed' : 'failed').catch(() => {})
      stream.abort(error as Error)
      init.onFailure?.(peer, error as Error)
    } finally {
      served--
    }
  }
}

const MAX_REMEMBERED = 4_096
