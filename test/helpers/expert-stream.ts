import type { TestContext } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import type { Stream } from '@libp2p/interface'
import { streamPair } from '@libp2p/utils'
import { ExpertClient } from '../../protocols/expert/client.ts'
import { createExpertHandler } from '../../protocols/expert/handler.ts'
import type { ExpertHandlerInit, ServedCall } from '../../protocols/expert/handler.ts'
import { decodeCall, encodeHello, encodeReply } from '../../protocols/expert/messages.ts'
import type { ExpertCall, ExpertReply } from '../../protocols/expert/messages.ts'
import { EXPERT_LIMITS, FrameKind } from '../../protocols/expert/protocol.ts'
import { FrameDecoder, FrameWriter } from '../../protocols/wire/frames.ts'

/** A small well-formed call; the row holds `mark`, so that replies can be told apart. */
export function callOf(fields: Partial<ExpertCall> = {}, mark = 1): ExpertCall {
  return {
    model: '0f'.repeat(32),
    layer: 0,
    priority: 0,
    deadlineMs: 10_000,
    combine: true,
    rowType: 'f32',
    rows: 1,
    width: 2,
    x: Float32Array.of(mark, -mark),
    pickRow: Uint16Array.of(0),
    pickExpert: Uint16Array.of(3),
    pickWeight: Float32Array.of(1),
    ...fields,
  }
}

/** A reply of the right shape that gives a call's rows back. */
export function echoOf(call: Pick<ExpertCall, 'rowType' | 'rows' | 'width' | 'x'>): Extract<ExpertReply, { status: 'ok' }> {
  return { status: 'ok', rowType: call.rowType, rows: call.rows, width: call.width, data: call.x, queueUs: 10, computeUs: 20 }
}

export interface FrameEnd {
  readonly stream: Stream
  /** Whole frames received so far, payloads copied. */
  readonly frames: { readonly id: number; readonly kind: number; readonly payload: Uint8Array }[]
  readonly write: (id: number, kind: number, ...parts: Uint8Array[]) => void
}

/** Reads and writes frames by hand on one end of a stream. */
export function frameEnd(stream: Stream): FrameEnd {
  const frames: FrameEnd['frames'] = []
  const decoder = new FrameDecoder({
    maxFrameBytes: EXPERT_LIMITS.maxFrameBytes,
    onFrame: ({ id, kind, payload }) => frames.push({ id, kind, payload: Uint8Array.from(payload) }),
  })
  stream.addEventListener('message', (event) => {
    for (const chunk of event.data instanceof Uint8Array ? [event.data] : event.data) decoder.push(chunk)
  })
  const writer = new FrameWriter(stream, () => {})
  return { stream, frames, write: (...args) => writer.write(...args) }
}

/** Two ends of a stream without any delay or timer; both are reset when the test ends. */
async function streams(t: TestContext): Promise<[Stream, Stream]> {
  const pair = await streamPair({ delay: 0 })
  t.after(() => pair.forEach((stream) => stream.abort(new Error('the test ended'))))
  return pair
}

/** The real client before a host that the test plays by hand. */
export async function clientAndPuppet(t: TestContext, init: { credits?: number } = {}) {
  const [near, far] = await streams(t)
  const closed: Error[] = []
  const client = new ExpertClient(near, 'host', (error) => closed.push(error))
  const end = frameEnd(far)
  if (init.credits !== undefined) end.write(0, FrameKind.hello, encodeHello({ revision: 1, credits: init.credits }))
  return {
    ...end,
    client,
    closed,
    /** Calls received so far, in order. */
    calls: () => end.frames.filter((frame) => frame.kind === FrameKind.call).map(({ id, payload }) => ({ id, call: decodeCall(payload) })),
    cancels: () => end.frames.filter((frame) => frame.kind === FrameKind.cancel).map((frame) => frame.id),
    reply: (id: number, answer: ExpertReply) => end.write(id, FrameKind.reply, ...encodeReply(answer)),
  }
}

/** The real handler before a driver that the test plays by hand. */
export async function handlerAndPuppet(t: TestContext, init: Partial<ExpertHandlerInit> = {}) {
  const [near, far] = await streams(t)
  const served: ServedCall[] = []
  const violations: Error[] = []
  const handler = createExpertHandler({
    onViolation: (_peer, error) => violations.push(error),
    ...init,
    serve: async (call) => {
      // Copied, since the handler gives the rows back.
      served.push({ ...call, x: call.x.slice() })
      return init.serve === undefined ? echoOf(call) : await init.serve(call)
    },
  })
  handler(far, 'driver')
  return { ...frameEnd(near), served, violations, hostStream: far }
}

/** The real client before the real handler. */
export async function clientAndHandler(t: TestContext, init: ExpertHandlerInit) {
  const [near, far] = await streams(t)
  const violations: Error[] = []
  createExpertHandler({ onViolation: (_peer, error) => violations.push(error), ...init })(far, 'driver')
  const client = new ExpertClient(near, 'host', () => {})
  await client.ready()
  return { client, violations, hostStream: far }
}

/** Lets everything that is under way happen; with streams of no delay that takes a few turns of the event loop. */
export async function settle(): Promise<void> {
  for (let i = 0; i < 20; i++) await turn()
}
