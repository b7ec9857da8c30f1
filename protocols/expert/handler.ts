import type { Stream } from '@libp2p/interface'
import { FrameDecoder, FrameWriter } from '../wire/frames.ts'
import { isMeshError } from '../wire/errors.ts'
import { decodeCall, encodeHello, encodeReply } from './messages.ts'
import type { ExpertCall, ExpertReply } from './messages.ts'
import { EXPERT_LIMITS as LIMITS, EXPERT_REVISION, FrameKind } from './protocol.ts'

/** A call as the serving side sees it. */
export interface ServedCall extends ExpertCall {
  /** Peer id of the driver. */
  readonly peer: string
  /** When it arrived, in `performance.now()` milliseconds. */
  readonly receivedAt: number
  /** True once the driver has cancelled it or is gone: its result will not be read. */
  isCancelled(): boolean
}

export interface ExpertHandlerInit {
  /** Answers one call; a rejection is answered with status `failed`. */
  serve(call: ServedCall): Promise<ExpertReply>
  /** Hears of peers that break the protocol. */
  onViolation?(peer: string, error: Error): void
  /** Calls one stream may have unanswered. */
  credits?: number
}

/**
 * The serving side of `/skein/expert/1`, for `libp2p.handle`. Each call gets exactly one reply; a malformed call is answered
 * `malformed`, a frame over its limit, an unknown frame or more calls than granted end the stream.
 */
export function createExpertHandler(init: ExpertHandlerInit): (stream: Stream, peer: string) => void {
  const credits = init.credits ?? LIMITS.maxCallsInFlight

  return (stream, peer) => {
    const inFlight = new Map<number, { cancelled: boolean }>()
    let closed = false
    const writer = new FrameWriter(stream, (error) => stream.abort(error))

    const end = (error?: Error): void => {
      if (closed) return
      closed = true
      for (const entry of inFlight.values()) entry.cancelled = true
      inFlight.clear()
      if (error !== undefined) {
        init.onViolation?.(peer, error)
        stream.abort(error)
      } else if (stream.status === 'open') {
        stream.close().catch((cause: Error) => stream.abort(cause))
      }
    }

    const reply = (id: number, answer: ExpertReply): void => {
      inFlight.delete(id)
      if (!closed) writer.write(id, FrameKind.reply, ...encodeReply(answer))
    }

    const onCall = (id: number, payload: Uint8Array): void => {
      if (inFlight.has(id)) throw new Error(`call id ${id} is used twice`)
      if (inFlight.size >= credits) throw new Error(`more than the ${credits} calls granted`)
      const entry = { cancelled: false }
      inFlight.set(id, entry)
      let call: ExpertCall
      try {
        call = decodeCall(payload)
      } catch (error) {
        init.onViolation?.(peer, error as Error)
        reply(id, { status: isMeshError(error, 'LimitExceededError') ? 'tooLarge' : 'malformed' })
        return
      }
      const served: ServedCall = { ...call, peer, receivedAt: performance.now(), isCancelled: () => entry.cancelled }
      init.serve(served).then(
        (answer) => reply(id, answer),
        () => reply(id, { status: 'failed' }),
      )
    }

    const decoder = new FrameDecoder({
      maxFrameBytes: LIMITS.maxFrameBytes,
      onFrame: ({ id, kind, payload }) => {
        if (kind === FrameKind.call) onCall(id, payload)
        else if (kind === FrameKind.cancel) {
          const entry = inFlight.get(id)
          if (entry !== undefined) entry.cancelled = true
        } else throw new Error(`frame kind ${kind} is not for a host`)
      },
    })

    stream.addEventListener('message', (event) => {
      if (closed) return
      try {
        for (const chunk of event.data instanceof Uint8Array ? [event.data] : event.data) decoder.push(chunk)
      } catch (error) {
        end(error as Error)
      }
    })
    stream.addEventListener('remoteCloseWrite', () => end())
    stream.addEventListener('close', () => end())
    writer.write(0, FrameKind.hello, encodeHello({ revision: EXPERT_REVISION, credits }))
  }
}
