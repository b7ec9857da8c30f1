import type { Stream } from '@libp2p/interface'
import { DeadlineError, InvalidMessageError, PeerLostError, PeerRefusedError } from '../wire/errors.ts'
import { FrameDecoder, FrameWriter } from '../wire/frames.ts'
import { decodeReply, encodeRequest } from './messages.ts'
import type { RangeRequest } from './messages.ts'
import { BLOB_LIMITS as LIMITS, FrameKind } from './protocol.ts'

/** A range that came. */
export interface BlobRange {
  /** Size of the whole blob, as the peer says. */
  readonly blobBytes: number
  /** In memory of its own. */
  readonly bytes: Uint8Array
}

interface Pending {
  readonly request: RangeRequest
  readonly resolve: (range: BlobRange) => void
  readonly reject: (error: Error) => void
  readonly timer: NodeJS.Timeout
}

/**
 * The asking side of `/skein/blob/1`: one stream to one peer.
 *
 * Life of a request: 1. its frame is sent at once; whoever asks keeps within `maxRequestsInFlight`; 2. it ends by exactly one of: the
 * answer (`ok` resolves; a refusal rejects with `PeerRefusedError` and its status; bytes that were not asked for with
 * `InvalidMessageError`), `requestTimeoutMs` (`DeadlineError`), or the end of the stream (`PeerLostError`).
 */
export class BlobClient {
  readonly peer: string
  readonly #stream: Stream
  readonly #writer: FrameWriter
  /** null for a request that is not waited for any more. */
  readonly #inFlight = new Map<number, Pending | null>()
  readonly #onClose: (error: Error) => void
  #nextId = 1
  #lost: PeerLostError | null = null

  /** `onClose` is told once when the stream ends, whoever ended it. */
  constructor(stream: Stream, peer: string, onClose: (error: Error) => void) {
    this.peer = peer
    this.#stream = stream
    this.#onClose = onClose
    this.#writer = new FrameWriter(stream, (error) => this.#end(error))
    const decoder = new FrameDecoder({ maxFrameBytes: LIMITS.maxFrameBytes, onFrame: (frame) => this.#onFrame(frame) })
    stream.addEventListener('message', (event) => {
      if (this.#lost !== null) return
      try {
        for (const chunk of event.data instanceof Uint8Array ? [event.data] : event.data) decoder.push(chunk)
      } catch (error) {
        this.#end(error as Error)
      }
    })
    stream.addEventListener('remoteCloseWrite', () => this.#end(new Error('the peer closed the stream')))
    stream.addEventListener('close', (event) => this.#end(event.error ?? new Error('the stream closed')))
  }

  get isOpen(): boolean {
    return this.#lost === null
  }

  /** Requests that may still be made now. */
  get room(): number {
    return this.#lost === null ? LIMITS.maxRequestsInFlight - this.#inFlight.size : 0
  }

  /** Asks for a range. Rejects at once with `PeerLostError` when the stream is over or has no room. */
  read(request: RangeRequest): Promise<BlobRange> {
    if (this.#lost !== null) return Promise.reject(this.#lost)
    if (this.room <= 0) return Promise.reject(new PeerLostError(`too many requests to ${this.peer} are unanswered`))
    const id = this.#nextId
    this.#nextId = id === 0xffff_ffff ? 1 : id + 1
    const { promise, resolve, reject } = Promise.withResolvers<BlobRange>()
    const timer = setTimeout(() => {
      this.#inFlight.set(id, null)
      reject(new DeadlineError(`${this.peer} did not send a range within ${LIMITS.requestTimeoutMs} ms`))
    }, LIMITS.requestTimeoutMs)
    this.#inFlight.set(id, { request, resolve, reject, timer })
    this.#writer.write(id, FrameKind.get, encodeRequest(request))
    return promise
  }

  /** Ends the stream; pending requests reject with `PeerLostError`. */
  close(): void {
    this.#end(new Error('closed by this side'))
  }

  #onFrame({ id, kind, payload }: { id: number; kind: number; payload: Uint8Array }): void {
    if (kind !== FrameKind.range) throw new InvalidMessageError(`frame kind ${kind} is not for who asks for blobs`)
    const pending = this.#inFlight.get(id)
    if (pending === undefined) throw new InvalidMessageError(`an answer to request ${id}, which was not made`)
    this.#inFlight.delete(id)
    if (pending === null) return
    clearTimeout(pending.timer)
    try {
      const reply = decodeReply(payload)
      if (reply.status !== 'ok') {
        const detail = { retryAfterMs: reply.status === 'busy' ? reply.retryAfterMs : 0 }
        throw new PeerRefusedError(reply.status, `${this.peer} refused a range of blob ${pending.request.digest}: ${reply.status}`, detail)
      }
      const { blobBytes, bytes } = reply
      const expected = Math.min(pending.request.length, blobBytes - pending.request.offset)
      if (bytes.length !== expected) throw new InvalidMessageError(`${this.peer} sent ${bytes.length} bytes where ${expected} belong`)
      pending.resolve({ blobBytes, bytes: bytes.slice() })
    } catch (error) {
      pending.reject(error as Error)
    }
  }

  #end(cause: Error): void {
    if (this.#lost !== null) return
    this.#lost = new PeerLostError(`lost ${this.peer} as a source of blobs: ${cause.message}`, { cause })
    const pendings = [...this.#inFlight.values()]
    this.#inFlight.clear()
    for (const pending of pendings) {
      if (pending === null) continue
      clearTimeout(pending.timer)
      pending.reject(this.#lost)
    }
    this.#stream.abort(cause)
    this.#onClose(cause)
  }
}
