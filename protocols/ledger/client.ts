import type { Stream } from '@libp2p/interface'
import { DeadlineError, InvalidMessageError, PeerLostError, PeerRefusedError, isMeshError } from '../wire/errors.ts'
import { converse, receiveEnvelopes, withinLimits } from './exchange.ts'
import type { LedgerAccess, SyncResult } from './exchange.ts'
import type { SyncMessage } from './messages.ts'
import { DEFAULTS, ID, Status } from './protocol.ts'

export interface LedgerClientComponents {
  readonly access: LedgerAccess
  /** Dials `peer` (a peer id) if need be and opens a stream of `protocol`. */
  openStream(peer: string, protocol: string, options: { signal: AbortSignal }): Promise<Stream>
}

export interface LedgerClientInit {
  /** See {@link DEFAULTS}. */
  readonly syncTimeoutMs?: number
}

export interface LedgerClient {
  sync(peer: string, options?: { signal?: AbortSignal }): Promise<SyncResult>
}

/**
 * The life of a sync:
 * 1. open a stream; a peer that can't be reached → `PeerLostError`;
 * 2. send our digest;
 * 3. read the envelopes that we lack, each verified as it comes, and then the peer's digest;
 *    `done` with a status instead → `PeerRefusedError` with the status' name;
 * 4. send the envelopes that the peer lacks, and `done`;
 * 5. read the peer's `done`; the stream closes.
 * All of it within `syncTimeoutMs` → `DeadlineError`; an abort → `signal.reason`; a peer that breaks the format →
 * `InvalidMessageError`, one that sends too much → `LimitExceededError`.
 */
export function createLedgerClient(components: LedgerClientComponents, init: LedgerClientInit = {}): LedgerClient {
  const { access } = components
  const timeoutMs = init.syncTimeoutMs ?? DEFAULTS.syncTimeoutMs
  return {
    async sync(peer, options = {}): Promise<SyncResult> {
      const deadline = AbortSignal.timeout(timeoutMs)
      const signal = options.signal === undefined ? deadline : AbortSignal.any([options.signal, deadline])
      const count = { received: 0, applied: 0, sent: 0 }

      async function* conversation(incoming: AsyncGenerator<SyncMessage>): AsyncGenerator<SyncMessage> {
        yield { kind: 'digest', swarm: access.swarm, digest: access.digest() }
        const theirs = await receiveEnvelopes(incoming, access, peer, count)
        if (theirs === null) throw new PeerLostError(`${peer} closed the ledger stream before its digest`)
        if (theirs.kind !== 'digest') throw refusal(peer, theirs)
        for (const envelope of withinLimits(access.missing(theirs.digest))) {
          count.sent++
          yield { kind: 'envelope', envelope }
        }
        yield { kind: 'done', status: Status.ok }
        const { value: last } = await incoming.next()
        if (last === undefined) throw new PeerLostError(`${peer} closed the ledger stream before its status`)
        if (last.kind !== 'done') throw new InvalidMessageError(`${peer} sent a ${last.kind} in place of its status`)
        if (last.status !== Status.ok) throw refusal(peer, last)
      }

      try {
        const stream = await components.openStream(peer, ID, { signal })
        await converse(stream, conversation, signal)
        return count
      } catch (error) {
        throw toMeshError(error, peer, options.signal, deadline, timeoutMs)
      }
    },
  }
}

function refusal(peer: string, message: SyncMessage): Error {
  if (message.kind !== 'done') return new InvalidMessageError(`${peer} sent ${message.kind} out of turn`)
  const name = Object.entries(Status).find(([, value]) => value === message.status)?.[0] ?? 'unknown'
  return new PeerRefusedError(name, `${peer} refused the ledger sync: ${name}`)
}

function toMeshError(error: unknown, peer: string, caller: AbortSignal | undefined, deadline: AbortSignal, timeoutMs: number): unknown {
  if (caller?.aborted === true) return caller.reason
  if (deadline.aborted) return new DeadlineError(`the ledger sync with ${peer} took longer than ${timeoutMs} ms`, { cause: error })
  const own = ['PeerLostError', 'PeerRefusedError', 'InvalidMessageError', 'LimitExceededError']
  if (own.some((name) => isMeshError(error, name))) return error
  const name = error instanceof Error ? error.name : ''
  // From it-length-prefixed.
  if (name.startsWith('InvalidDataLength') || name === 'InvalidMessageLengthError') {
    return new InvalidMessageError(`${peer} sent a message of impossible length`, { cause: error })
  }
  return new PeerLostError(`the ledger sync with ${peer} broke off`, { cause: error })
}
