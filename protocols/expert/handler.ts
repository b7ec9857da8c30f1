import type { Stream } from '@libp2p/interface'
import { freeMemory } from '../wire/free-memory.ts'
import { FrameDecoder, FrameWriter } from '../wire/frames.ts'
import { DeadlineError, InvalidMessageError, isMeshError, LimitExceededError } from '../wire/errors.ts'
import { decodeCall, encodeHello, encodeReply, replyFrameBytes } from './messages.ts'
import type { ExpertCall, ExpertReply } from './messages.ts'
import { EXPERT_LIMITS as LIMITS, EXPERT_REVISION, FrameKind } from './protocol.ts'

/** A call as the serving side sees it. */
export interface ServedCall extends ExpertCall {
  /** Peer id of the driver. */
  readonly peer: string
  /** When it arrived, in `performance.now()` milliseconds. */
  readonly receivedAt: number
  /** True once the driver has cancelled it or is gone: its result will not be read. */
  readonly isCancelled: () => boolean
}

export interface ExpertHandlerInit {
  /** Answers one call; a rejection is answered with status `failed`. The memory of an answered call's rows and of its answer's is freed. */
  serve(call: ServedCall): Promise<ExpertReply>
  /** Hears why a call was answered `failed`; the peer does not. */
  onFailure?(peer: string, error: Error): void
  /** Hears of peers that break the protocol. */
  onViolation?(peer: string, error: Error): void
  /** Calls one stream may have unanswered. */
  credits?: number
}

/**
 * The serving side of `/skein/expert/1`, for `libp2p.handle`. Each call gets exactly one reply; a malformed call is answered
 * `malformed`, one that asks for too much `tooLarge`. What ends the stream: a frame over its limit or of an unknown kind, a frame that
 * is not whole in time, more calls than granted, a call id used twice, too many malformed calls, replies that are not read.
 */
export function createExpertHandler(init: ExpertHandlerInit): (stream: Stream, peer: string) => void {
  const credits = init.credits ?? LIMITS.maxCallsInFlight

  return (stream, peer) => {
    const inFlight = new Map<number, { cancelled: boolean }>()
    let closed = false
    let malformed = 0
    let frameTimer: NodeJS.Timeout | null = null

    const stopFrameTimer = (): void => {
      if (frameTimer === null) return
      clearTimeout(frameTimer)
      frameTimer = null
    }

    const end = (violation?: Error): void => {
      if (closed) return
      closed = true
      stopFrameTimer()
      for (const entry of inFlight.values()) entry.cancelled = true
      inFlight.clear()
      if (violation !== undefined) {
        init.onViolation?.(peer, violation)
        stream.abort(violation)
      } else if (stream.status === 'open') {
        stream.close({ signal: AbortSignal.timeout(LIMITS.closeTimeoutMs) }).catch((cause: Error) => stream.abort(cause))
      }
    }

    const writer = new FrameWriter(stream, (error) => (isMeshError(error, 'LimitExceededError') ? end(error) : stream.abort(error)))

    const reply = (id: number, answer: ExpertReply): void => {
      inFlight.delete(id)
      if (!closed) writer.write(id, FrameKind.reply, ...encodeReply(answer))
    }

    const onCall = (id: number, payload: Uint8Array): void => {
      if (inFlight.has(id)) throw new InvalidMessageError(`call id ${id} is used twice`)
      if (inFlight.size >= credits) throw new LimitExceededError(`more than the ${credits} calls granted`)
      const entry = { cancelled: false }
      inFlight.set(id, entry)
      let call: ExpertCall
      try {
        call = decodeCall(payload)
        checkReplyFits(call)
      } catch (error) {
        if (++malformed > LIMITS.maxMalformedCalls) throw error
        init.onViolation?.(peer, error as Error)
        reply(id, { status: isMeshError(error, 'LimitExceededError') ? 'tooLarge' : 'malformed' })
        return
      }
      const served: ServedCall = { ...call, peer, receivedAt: performance.now(), isCancelled: () => entry.cancelled }
      init
        .serve(served)
        .then((answer) => {
          reply(id, answer)
          // Once the answer is on its way.
          setImmediate(() => {
            freeMemory(served.x)
            if (answer.status === 'ok') freeMemory(answer.data)
          })
        })
        .catch((error: Error) => {
          init.onFailure?.(peer, error)
          reply(id, { status: 'failed' })
        })
    }

    const decoder = new FrameDecoder({
      maxFrameBytes: LIMITS.maxFrameBytes,
      onFrame: ({ id, kind, payload }) => {
        if (closed) return
        stopFrameTimer()
        if (kind === FrameKind.call) onCall(id, payload)
        else if (kind === FrameKind.cancel) {
          const entry = inFlight.get(id)
          if (entry !== undefined) entry.cancelled = true
        } else throw new InvalidMessageError(`frame kind ${kind} is not for a host`)
      },
    })

    const watchFrame = (): void => {
      if (closed || frameTimer !== null || !decoder.isPartial) return
      const late = new DeadlineError(`a frame was not whole within ${LIMITS.frameTimeoutMs} ms`)
      frameTimer = setTimeout(() => end(late), LIMITS.frameTimeoutMs)
    }

    stream.addEventListener('message', (event) => {
      if (closed) return
      try {
        for (const chunk of event.data instanceof Uint8Array ? [event.data] : event.data) decoder.push(chunk)
        watchFrame()
      } catch (error) {
        end(error as Error)
      }
    })
    stream.addEventListener('remoteCloseWrite', () => end())
    stream.addEventListener('close', () => end())
    writer.write(0, FrameKind.hello, encodeHello({ revision: EXPERT_REVISION, credits }))
  }
}

/** A call of few bytes can ask for many: the driver would have to end the stream at such a reply. */
function checkReplyFits(call: ExpertCall): void {
  const bytes = replyFrameBytes(call.rowType, call.combine ? call.rows : call.pickRow.length, call.width)
  if (bytes > LIMITS.maxFrameBytes) throw new LimitExceededError(`a reply of ${bytes} bytes exceeds the limit of ${LIMITS.maxFrameBytes}`)
}
