import type { Stream } from '@libp2p/interface'
import { DeadlineError, InvalidMessageError, isMeshError, LimitExceededError } from '../wire/errors.ts'
import { FrameDecoder, FrameWriter } from '../wire/frames.ts'
import { decodeRequest, encodeReply } from './messages.ts'
import type { RangeReply, RangeRequest } from './messages.ts'
import { BLOB_LIMITS as LIMITS, FrameKind } from './protocol.ts'

export interface BlobHandlerInit {
  /** The range, or null when the blob is not here. A rejection is answered with status `failed`. */
  read(request: RangeRequest): Promise<{ readonly blobBytes: number; readonly bytes: Uint8Array } | null>
  /** Resolves when so many bytes may be sent: what keeps blobs behind calls. */
  turn(bytes: number): Promise<void>
  /** Hears why a request was answered `failed`; the peer does not. */
  onFailure?(peer: string, error: Error): void
  /** Hears of peers that break the protocol. */
  onViolation?(peer: string, error: Error): void
}

/**
 * The serving side of `/skein/blob/1`, for `libp2p.handle`. Each request gets one answer, in order; one range of a stream is in memory
 * at a time beside what waits to be sent. What ends the stream: a frame over its limit or of another kind, a frame that is not whole in
 * time, more requests than allowed, too many malformed ones, answers that are not read.
 */
export function createBlobHandler(init: BlobHandlerInit): (stream: Stream, peer: string) => void {
  let streams = 0

  return (stream, peer) => {
    const waiting: { readonly id: number; readonly payload: Uint8Array }[] = []
    let isServing = false
    let closed = false
    let malformed = 0
    let frameTimer: NodeJS.Timeout | null = null
    const isOverfull = ++streams > LIMITS.maxServedStreams

    const end = (violation?: Error): void => {
      if (closed) return
      closed = true
      streams--
      waiting.length = 0
      if (frameTimer !== null) clearTimeout(frameTimer)
      if (violation !== undefined) {
        init.onViolation?.(peer, violation)
        stream.abort(violation)
      } else if (stream.status === 'open') {
        stream.close({ signal: AbortSignal.timeout(LIMITS.closeTimeoutMs) }).catch((cause: Error) => stream.abort(cause))
      }
    }

    const writer = new FrameWriter(stream, (error) => (isMeshError(error, 'LimitExceededError') ? end(error) : stream.abort(error)))

    const answer = async (payload: Uint8Array): Promise<RangeReply> => {
      let request: RangeRequest
      try {
        request = decodeRequest(payload)
      } catch (error) {
        if (++malformed > LIMITS.maxMalformedRequests) throw error
        init.onViolation?.(peer, error as Error)
        return { status: isMeshError(error, 'LimitExceededError') ? 'tooLarge' : 'malformed' }
      }
      if (isOverfull) return { status: 'busy', retryAfterMs: BUSY_MS }
      try {
        await init.turn(request.length)
        const found = await init.read(request)
        if (found === null) return { status: 'notFound' }
        return request.offset > found.blobBytes ? { status: 'outOfRange' } : { status: 'ok', ...found }
      } catch (error) {
        init.onFailure?.(peer, error as Error)
        return { status: 'failed' }
      }
    }

    const serve = async (): Promise<void> => {
      isServing = true
      for (let next = waiting[0]; next !== undefined && !closed; next = waiting[0]) {
        const reply = await answer(next.payload)
        if (closed) break
        waiting.shift()
        writer.write(next.id, FrameKind.range, ...encodeReply(reply))
        // A peer that does not read holds up its own requests, not this node's memory.
        if (stream.writeBufferLength > LIMITS.maxFrameBytes) await sent(stream)
      }
      isServing = false
    }

    const decoder = new FrameDecoder({
      maxFrameBytes: LIMITS.maxFrameBytes,
      onFrame: ({ id, kind, payload }) => {
        if (closed) return
        if (frameTimer !== null) clearTimeout(frameTimer)
        frameTimer = null
        if (kind !== FrameKind.get) throw new InvalidMessageError(`frame kind ${kind} is not for who serves blobs`)
        if (waiting.length >= LIMITS.maxRequestsInFlight)
          throw new LimitExceededError(`more than the ${LIMITS.maxRequestsInFlight} requests allowed`)
        waiting.push({ id, payload: payload.slice() })
        if (!isServing) serve().catch((error: Error) => end(error))
      },
    })

    stream.addEventListener('message', (event) => {
      if (closed) return
      try {
        for (const chunk of event.data instanceof Uint8Array ? [event.data] : event.data) decoder.push(chunk)
      } catch (error) {
        end(error as Error)
        return
      }
      if (closed || frameTimer !== null || !decoder.isPartial) return
      const late = new DeadlineError(`a frame was not whole within ${LIMITS.frameTimeoutMs} ms`)
      frameTimer = setTimeout(() => end(late), LIMITS.frameTimeoutMs)
    })
    stream.addEventListener('remoteCloseWrite', () => end())
    stream.addEventListener('close', () => end())
  }
}

/** What a peer is asked to wait when too many are served. */
const BUSY_MS = 1_000

/** Resolves when nothing of the stream waits to be sent (`onDrain` resolves at once for a stream that was ever drained). Rejects with `DeadlineError`. */
function sent(stream: Stream): Promise<void> {
  return new Promise((resolve, reject) => {
    const events = ['idle', 'close'] as const
    const end = (error?: Error): void => {
      clearTimeout(timer)
      for (const event of events) stream.removeEventListener(event, onEvent)
      if (error === undefined) resolve()
      else reject(error)
    }
    const onEvent = (): void => end()
    const late = new DeadlineError(`the peer read nothing for ${LIMITS.requestTimeoutMs} ms`)
    const timer = setTimeout(() => end(late), LIMITS.requestTimeoutMs)
    for (const event of events) stream.addEventListener(event, onEvent)
  })
}
