import type { Stream } from '@libp2p/interface'
import { isMeshError } from '../wire/errors.ts'
import { converse, receiveEnvelopes, withinLimits } from './exchange.ts'
import type { LedgerAccess, SyncResult } from './exchange.ts'
import type { SyncMessage } from './messages.ts'
import { DEFAULTS, LIMITS, Status } from './protocol.ts'

export interface LedgerHandlerComponents {
  readonly access: LedgerAccess
}

export interface LedgerHandlerInit {
  /** See {@link DEFAULTS}. */
  readonly syncTimeoutMs?: number
  /** See {@link LIMITS}. */
  readonly maxServedSyncs?: number
  /** Aborts every sync being served, and refuses new ones. */
  readonly signal?: AbortSignal
}

export interface LedgerHandler {
  /** Serves one sync; always resolves: null when the sync did not end well. */
  handle(stream: Stream, connection: { readonly remotePeer: { toString(): string } }): Promise<SyncResult | null>
}

/** The serving side: answers a digest with what the peer lacks and with its own digest, and takes what comes back. */
export function createLedgerHandler(components: LedgerHandlerComponents, init: LedgerHandlerInit = {}): LedgerHandler {
  const { access } = components
  const timeoutMs = init.syncTimeoutMs ?? DEFAULTS.syncTimeoutMs
  const maxServed = init.maxServedSyncs ?? LIMITS.maxServedSyncs
  let served = 0

  return {
    async handle(stream, connection): Promise<SyncResult | null> {
      const peer = connection.remotePeer.toString()
      const deadline = AbortSignal.timeout(timeoutMs)
      const signal = init.signal === undefined ? deadline : AbortSignal.any([init.signal, deadline])
      const count = { received: 0, applied: 0, sent: 0 }
      let status = Status.failed as Status

      async function* answer(incoming: AsyncGenerator<SyncMessage>): AsyncGenerator<SyncMessage, Status> {
        if (served > maxServed) return Status.busy
        const first = await incoming.next()
        if (first.done === true || first.value.kind !== 'digest') return Status.malformed
        if (first.value.swarm !== access.swarm) return Status.wrongSwarm
        for (const envelope of withinLimits(access.missing(first.value.digest))) {
          count.sent++
          yield { kind: 'envelope', envelope }
        }
        yield { kind: 'digest', swarm: access.swarm, digest: access.digest() }
        const last = await receiveEnvelopes(incoming, access, peer, count)
        return last?.kind === 'done' ? Status.ok : Status.malformed
      }

      async function* conversation(incoming: AsyncGenerator<SyncMessage>): AsyncGenerator<SyncMessage> {
        try {
          status = yield* answer(incoming)
        } catch (error) {
          status = statusOf(error)
        }
        yield { kind: 'done', status }
      }

      served++
      try {
        await converse(stream, conversation, signal)
        return status === Status.ok ? count : null
      } catch {
        // The stream is aborted; whoever dialled hears of it there, and the next sync makes good what this one missed.
        return null
      } finally {
        served--
      }
    },
  }
}

function statusOf(error: unknown): Status {
  if (isMeshError(error, 'LimitExceededError')) return Status.tooLarge
  if (isMeshError(error, 'InvalidMessageError')) return Status.malformed
  const name = error instanceof Error ? error.name : ''
  // From it-length-prefixed.
  if (name.startsWith('InvalidDataLength') || name === 'InvalidMessageLengthError' || name === 'UnexpectedEOFError') return Status.malformed
  return Status.failed
}
