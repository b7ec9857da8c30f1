import type { Stream } from '@libp2p/interface'
import { DeadlineError, InvalidMessageError, LimitExceededError, PeerLostError, PeerRefusedError } from '../wire/errors.ts'
import { FrameDecoder, FrameWriter } from '../wire/frames.ts'
import { callFrameBytes, decodeHello, decodeReply, encodeCall, replyFrameBytes } from './messages.ts'
import type { ExpertCall, ExpertReply } from './messages.ts'
import { EXPERT_LIMITS as LIMITS, FrameKind } from './protocol.ts'

/** A successful reply. */
export type ExpertResult = Extract<ExpertReply, { status: 'ok' }>

export interface CallOptions {
  readonly signal?: AbortSignal
}

/** A call under way. */
export interface StartedCall {
  readonly answer: Promise<ExpertResult>
  /** Gives it up: `answer` rejects with the reason, and the host is told. Nothing happens when it has ended. */
  cancel(reason: Error): void
}

/** Experts that an error names of those that a host does not hold. */
const NAMED_EXPERTS = 8
const RETIRE_CHECK_MS = 1_000

interface Pending {
  readonly id: number
  readonly call: ExpertCall
  readonly resolve: (result: ExpertResult) => void
  readonly reject: (error: Error) => void
  timer: NodeJS.Timeout | null
  settled: boolean
}

/**
 * The driving side of `/skein/expert/1`: one long-lived stream to one host.
 *
 * Life of a call: 1. it waits for a credit, first come first served; 2. its frame is sent; 3. it ends by exactly one of: the reply
 * (`ok` resolves; a refusal rejects with `PeerRefusedError` and its status), its own `deadlineMs` (`DeadlineError`, a cancel frame is
 * sent), `cancel` or `signal` (rejects with the reason, a cancel frame is sent), or the end of the stream (`PeerLostError`).
 */
export class ExpertClient {
  readonly peer: string
  readonly #stream: Stream
  readonly #writer: FrameWriter
  /** null for a call whose caller is gone (deadline, abort): its rows are freed, its credit returns with the reply. */
  readonly #inFlight = new Map<number, Pending | null>()
  readonly #waiting: Pending[] = []
  readonly #hello = Promise.withResolvers<void>()
  readonly #onClose: (error: Error) => void
  #credits = 0
  #greeted = false
  #nextId = 1
  #lost: PeerLostError | null = null
  bytesReceived = 0

  /** `onClose` is told once when the stream ends, whoever ended it. */
  constructor(stream: Stream, peer: string, onClose: (error: Error) => void) {
    this.peer = peer
    this.#stream = stream
    this.#onClose = onClose
    this.#writer = new FrameWriter(stream, (error) => this.#end(error))
    this.#hello.promise.catch(() => {})
    const decoder = new FrameDecoder({ maxFrameBytes: LIMITS.maxFrameBytes, onFrame: (frame) => this.#onFrame(frame) })
    stream.addEventListener('message', (event) => {
      if (this.#lost !== null) return
      try {
        for (const chunk of event.data instanceof Uint8Array ? [event.data] : event.data) {
          this.bytesReceived += chunk.length
          decoder.push(chunk)
        }
      } catch (error) {
        this.#end(error as Error)
      }
    })
    stream.addEventListener('remoteCloseWrite', () => this.#end(new Error('the host closed the stream')))
    stream.addEventListener('close', (event) => this.#end(event.error ?? new Error('the stream closed')))
  }

  /** Resolves once the host has said hello; rejects with `PeerLostError` or `DeadlineError`. */
  async ready(): Promise<void> {
    const timer = setTimeout(
      () => this.#end(new DeadlineError(`no hello from the host within ${LIMITS.helloTimeoutMs} ms`)),
      LIMITS.helloTimeoutMs,
    )
    try {
      await this.#hello.promise
    } finally {
      clearTimeout(timer)
    }
  }

  get isOpen(): boolean {
    return this.#lost === null
  }

  get bytesSent(): number {
    return this.#writer.bytesSent
  }

  /** Calls sent or waiting for a credit. */
  get load(): number {
    return this.#inFlight.size + this.#waiting.length
  }

  /** As {@link start}, given up with the signal. */
  async call(call: ExpertCall, options: CallOptions = {}): Promise<ExpertResult> {
    const { signal } = options
    signal?.throwIfAborted()
    const started = this.start(call)
    if (signal === undefined) return await started.answer
    const onAbort = (): void => started.cancel(signal.reason as Error)
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      return await started.answer
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  start(call: ExpertCall): StartedCall {
    const { promise: answer, resolve, reject } = Promise.withResolvers<ExpertResult>()
    if (this.#lost !== null) return { answer: Promise.reject(this.#lost), cancel: () => {} }
    const pending: Pending = { id: this.#takeId(), call, resolve, reject, timer: null, settled: false }
    pending.timer = setTimeout(() => {
      this.#cancel(pending, new DeadlineError(`host ${this.peer} did not answer within ${call.deadlineMs} ms`))
    }, call.deadlineMs)
    if (this.#credits > 0) this.#send(pending)
    else this.#waiting.push(pending)
    return { answer, cancel: (reason) => this.#cancel(pending, reason) }
  }

  /** Ends the stream once no call is under way; for a link that another has replaced. */
  retire(): void {
    const timer = setInterval(() => {
      // A caller may have taken this client just before it was replaced: it has a second to begin.
      if (this.isOpen && this.load > 0) return
      clearInterval(timer)
      this.#end(new Error('replaced by a better link'))
    }, RETIRE_CHECK_MS)
  }

  /** Ends the stream; pending calls reject with `PeerLostError`. */
  close(): void {
    this.#end(new Error('closed by this side'))
  }

  #takeId(): number {
    const id = this.#nextId
    this.#nextId = id === 0xffff_ffff ? 1 : id + 1
    return id
  }

  #send(pending: Pending): void {
    let parts: Uint8Array[]
    try {
      checkFrames(pending.call)
      parts = encodeCall(pending.call)
    } catch (error) {
      this.#settle(pending)
      pending.reject(error as Error)
      return
    }
    this.#credits--
    this.#inFlight.set(pending.id, pending)
    this.#writer.write(pending.id, FrameKind.call, ...parts)
  }

  #cancel(pending: Pending, error: Error): void {
    if (pending.settled) return
    this.#settle(pending)
    const waiting = this.#waiting.indexOf(pending)
    if (waiting >= 0) this.#waiting.splice(waiting, 1)
    else if (this.#inFlight.has(pending.id)) {
      this.#inFlight.set(pending.id, null)
      this.#writer.write(pending.id, FrameKind.cancel)
    }
    pending.reject(error)
  }

  #settle(pending: Pending): void {
    pending.settled = true
    if (pending.timer !== null) clearTimeout(pending.timer)
  }

  #onFrame(frame: { id: number; kind: number; payload: Uint8Array }): void {
    if (frame.kind === FrameKind.hello) {
      if (this.#greeted) throw new InvalidMessageError('a second hello')
      const hello = decodeHello(frame.payload)
      this.#greeted = true
      this.#credits = Math.min(hello.credits, LIMITS.maxCallsInFlight)
      this.#hello.resolve()
      this.#sendWaiting()
      return
    }
    if (frame.kind !== FrameKind.reply) throw new InvalidMessageError(`frame kind ${frame.kind} is not for a driver`)
    const pending = this.#inFlight.get(frame.id)
    if (pending === undefined) throw new InvalidMessageError(`a reply to call ${frame.id}, which was not made`)
    this.#inFlight.delete(frame.id)
    this.#credits++
    this.#sendWaiting()
    if (pending === null) return
    this.#settle(pending)
    try {
      const reply = decodeReply(frame.payload)
      if (reply.status === 'ok') {
        checkAnswers(pending.call, reply)
        pending.resolve(reply)
      } else {
        pending.reject(
          new PeerRefusedError(reply.status, refusalOf(this.peer, pending.call, reply), {
            retryAfterMs: reply.status === 'busy' ? reply.retryAfterMs : 0,
            experts: reply.status === 'notHeld' ? reply.experts : [],
          }),
        )
      }
    } catch (error) {
      pending.reject(error as Error)
    }
  }

  #sendWaiting(): void {
    while (this.#credits > 0 && this.#waiting.length > 0) this.#send(this.#waiting.shift()!)
  }

  #end(cause: Error): void {
    if (this.#lost !== null) return
    this.#lost = new PeerLostError(`lost host ${this.peer}: ${cause.message}`, { cause })
    const pendings = [...this.#inFlight.values(), ...this.#waiting]
    this.#inFlight.clear()
    this.#waiting.length = 0
    for (const pending of pendings) {
      if (pending === null) continue
      this.#settle(pending)
      pending.reject(this.#lost)
    }
    this.#hello.reject(cause instanceof DeadlineError ? cause : this.#lost)
    this.#stream.abort(cause)
    this.#onClose(cause)
  }
}

/** Neither the call nor the reply to it may exceed a frame. */
function checkFrames(call: ExpertCall): void {
  const bytes = Math.max(callFrameBytes(call), replyFrameBytes(call.rowType, call.combine ? call.rows : call.pickRow.length, call.width))
  if (bytes > LIMITS.maxFrameBytes) {
    throw new LimitExceededError(
      `a call that sends or asks for ${bytes} bytes exceeds the frame limit of ${LIMITS.maxFrameBytes}: send fewer rows`,
    )
  }
}

/** A reply must have the shape that was asked for, with finite numbers: what a host sends goes into the residual stream. */
function checkAnswers(call: ExpertCall, reply: ExpertResult): void {
  const rows = call.combine ? call.rows : call.pickRow.length
  if (reply.rows !== rows || reply.width !== call.width) {
    throw new InvalidMessageError(`a reply of ${reply.rows} rows of ${reply.width}, asked were ${rows} of ${call.width}`)
  }
  if (!areFinite(reply.data)) throw new InvalidMessageError('a reply with numbers that are not finite')
}

/**
 * NaN and infinities survive addition, so one pass over the sum of magnitudes finds any of them. By itself, since V8 compiles a loop within a
 * function that runs rarely anew each time.
 */
function areFinite(numbers: Float32Array): boolean {
  let sum = 0
  for (let i = 0; i < numbers.length; i++) sum += Math.abs(numbers[i]!)
  return Number.isFinite(sum)
}

function refusalOf(peer: string, call: ExpertCall, reply: Exclude<ExpertReply, ExpertResult>): string {
  const detail = reply.status === 'notHeld' ? ` (experts ${reply.experts.slice(0, NAMED_EXPERTS).join(', ')})` : ''
  return `host ${peer} refused layer ${call.layer}: ${reply.status}${detail}`
}
