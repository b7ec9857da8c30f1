import type { Stream } from '@libp2p/interface'
import { messageStreamToDuplex } from '@libp2p/utils'
import * as lengthPrefixed from 'it-length-prefixed'
import { pipe } from 'it-pipe'
import { InvalidMessageError, LimitExceededError } from '../wire/errors.ts'
import { decodeMessage, encodeMessage } from './messages.ts'
import type { SyncMessage } from './messages.ts'
import { LIMITS, MAX_MESSAGE_BYTES } from './protocol.ts'

/** What either side of a sync needs of a ledger. */
export interface LedgerAccess {
  readonly swarm: string
  /** What this node has. */
  digest(): Uint8Array
  /** Envelopes that a peer with this digest lacks, most useful first. Throws on a digest that can't be read. */
  missing(digest: Uint8Array): readonly Uint8Array[]
  /** Verifies and keeps one envelope from `peer`; `invalid` says that the peer should not have forwarded it. */
  receive(envelope: Uint8Array, peer: string): Promise<Verdict>
}

export type Verdict = 'applied' | 'ignored' | 'invalid'

export interface SyncResult {
  /** Envelopes received, and those of them that were news. */
  readonly received: number
  readonly applied: number
  readonly sent: number
}

type Incoming = AsyncGenerator<SyncMessage, void, unknown>

/** One side's part of a sync: reads the peer's messages, yields its own. */
export type Conversation = (incoming: Incoming) => AsyncGenerator<SyncMessage, void, unknown>

/**
 * Runs one side of a sync on a stream until the conversation returns. Rejects with `signal.reason` on abort, with
 * `LimitExceededError` when the peer sends more than {@link LIMITS} allows, or with what broke the stream.
 */
export async function converse(stream: Stream, conversation: Conversation, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted()
  let tooMuch: LimitExceededError | null = null
  let bytes = 0
  const duplex = messageStreamToDuplex(stream)
  // The duplex buffers whatever comes; this keeps what can come finite.
  const meter = (event: { data: { byteLength: number } }): void => {
    bytes += event.data.byteLength
    if (bytes <= LIMITS.maxSyncBytes || tooMuch !== null) return
    tooMuch = new LimitExceededError(`the peer sent more than ${LIMITS.maxSyncBytes} bytes in one sync`)
    stream.abort(tooMuch)
  }
  stream.addEventListener('message', meter)
  const aborted = Promise.withResolvers<never>()
  const onAbort = (): void => {
    stream.abort(signal.reason instanceof Error ? signal.reason : new Error('aborted'))
    aborted.reject(signal.reason)
  }
  signal.addEventListener('abort', onAbort, { once: true })
  const ended = pipe(
    duplex,
    (source) => lengthPrefixed.decode(source, { maxDataLength: MAX_MESSAGE_BYTES }),
    (source) => readMessages(source),
    conversation,
    (source) => writeMessages(source),
    (source) => lengthPrefixed.encode(source, { maxDataLength: MAX_MESSAGE_BYTES }),
    duplex,
  )
  try {
    await Promise.race([ended, aborted.promise])
    // A peer that does not end its side must neither hold the stream open nor fill the duplex, which nobody reads any more.
    await stream.closeRead({ signal })
  } catch (error) {
    stream.abort(error instanceof Error ? error : new Error(String(error)))
    throw tooMuch ?? error
  } finally {
    signal.removeEventListener('abort', onAbort)
    stream.removeEventListener('message', meter)
  }
}

/** Takes the peer's envelopes until it sends something else, which is returned; null when it hung up. */
export async function receiveEnvelopes(
  incoming: Incoming,
  access: LedgerAccess,
  peer: string,
  count: { received: number; applied: number },
): Promise<SyncMessage | null> {
  let invalid = 0
  while (true) {
    const next = await incoming.next()
    if (next.done === true) return null
    const message = next.value
    if (message.kind !== 'envelope') return message
    count.received++
    if (count.received > LIMITS.maxSyncEnvelopes) {
      throw new LimitExceededError(`the peer sent more than ${LIMITS.maxSyncEnvelopes} envelopes in one sync`)
    }
    const verdict = await access.receive(message.envelope, peer)
    if (verdict === 'applied') count.applied++
    if (verdict === 'invalid') invalid++
    if (invalid > LIMITS.maxInvalidEnvelopes) throw new InvalidMessageError(`the peer sent ${invalid} envelopes that do not verify`)
  }
}

/** As many of the envelopes, in order, as one sync may carry beside a digest. */
export function withinLimits(envelopes: readonly Uint8Array[]): readonly Uint8Array[] {
  let bytes = 2 * MAX_MESSAGE_BYTES
  let count = 0
  for (const envelope of envelopes) {
    // Length prefix and kind.
    bytes += envelope.length + 8
    if (count === LIMITS.maxSyncEnvelopes || bytes > LIMITS.maxSyncBytes) break
    count++
  }
  return envelopes.slice(0, count)
}

async function* readMessages(source: AsyncIterable<{ subarray(): Uint8Array }>): Incoming {
  for await (const bytes of source) yield decodeMessage(bytes.subarray())
}

async function* writeMessages(source: AsyncIterable<SyncMessage>): AsyncGenerator<Uint8Array> {
  for await (const message of source) yield encodeMessage(message)
}
