import assert from 'node:assert/strict'
import { setImmediate as turn } from 'node:timers/promises'
import { test } from 'node:test'
import fc from 'fast-check'
import { isMeshError } from '../../../protocols/wire/errors.ts'
import { FrameDecoder, FrameWriter } from '../../../protocols/wire/frames.ts'
import {
  callFrameBytes,
  decodeCall,
  decodeHello,
  decodeReply,
  encodeCall,
  encodeHello,
  encodeReply,
  replyFrameBytes,
} from '../../../protocols/expert/messages.ts'
import type { ExpertCall, ExpertReply } from '../../../protocols/expert/messages.ts'
import { EXPERT_LIMITS as LIMITS, FrameKind, Status } from '../../../protocols/expert/protocol.ts'
import { vector } from '../../helpers/vector.ts'

const MODEL = Buffer.from(Uint8Array.from({ length: 32 }, (_, i) => i)).toString('hex')
const X_2X3 = Float32Array.of(1, -2, 0.5, 0.1, 3e-5, -7.25)
/** Two rows of 40 numbers that i8 keeps exactly: blocks with scales of 1/64, 1/64, 0 and 1. */
const X_2X40 = Float32Array.from({ length: 80 }, (_, i) => (i < 33 ? Math.round(((i - 16) * 127) / 16) / 64 : 0))
X_2X40.set([127, -127, 64, -1, 2, -3, 4, -5], 72)

const CALLS: Readonly<Record<string, { id: number; call: ExpertCall }>> = {
  'call-f32-combined': {
    id: 1,
    call: {
      model: MODEL,
      layer: 3,
      priority: 0,
      deadlineMs: 3000,
      combine: true,
      rowType: 'f32',
      rows: 2,
      width: 3,
      x: X_2X3,
      pickRow: Uint16Array.of(0, 1, 0),
      pickExpert: Uint16Array.of(1, 1, 7),
      pickWeight: Float32Array.of(0.75, 1, 0.25),
    },
  },
  'call-f16-per-pick': {
    id: 2,
    call: {
      model: MODEL,
      layer: 0,
      priority: 1,
      deadlineMs: 120_000,
      combine: false,
      rowType: 'f16',
      rows: 1,
      width: 4,
      x: Float32Array.of(0.333251953125, 65504, -65504, 0),
      pickRow: Uint16Array.of(0, 0),
      pickExpert: Uint16Array.of(0, 65_535),
      pickWeight: Float32Array.of(0.5, 0.5),
    },
  },
  'call-i8-combined': {
    id: 0xffff_ffff,
    call: {
      model: MODEL,
      layer: 65_535,
      priority: 2,
      deadlineMs: 1,
      combine: true,
      rowType: 'i8',
      rows: 2,
      width: 40,
      x: X_2X40,
      pickRow: Uint16Array.of(0, 1),
      pickExpert: Uint16Array.of(12, 12),
      pickWeight: Float32Array.of(1, -1),
    },
  },
}

const REPLIES: Readonly<Record<string, { id: number; reply: ExpertReply }>> = {
  'reply-ok-f32': { id: 1, reply: { status: 'ok', rowType: 'f32', rows: 2, width: 3, data: X_2X3, queueUs: 120, computeUs: 340 } },
  'reply-ok-f16': {
    id: 2,
    reply: {
      status: 'ok',
      rowType: 'f16',
      rows: 2,
      width: 2,
      data: Float32Array.of(0.333251953125, 65504, -65504, 0),
      queueUs: 0,
      computeUs: 0xffff_ffff,
    },
  },
  'reply-ok-i8': {
    id: 0xffff_ffff,
    reply: { status: 'ok', rowType: 'i8', rows: 2, width: 40, data: X_2X40, queueUs: 1, computeUs: 2 },
  },
  'reply-busy': { id: 3, reply: { status: 'busy', retryAfterMs: 250 } },
  'reply-not-held': { id: 4, reply: { status: 'notHeld', experts: [3, 300] } },
  'reply-cancelled': { id: 5, reply: { status: 'cancelled' } },
  'reply-deadline': { id: 5, reply: { status: 'deadline' } },
  'reply-malformed': { id: 5, reply: { status: 'malformed' } },
  'reply-too-large': { id: 5, reply: { status: 'tooLarge' } },
  'reply-failed': { id: 5, reply: { status: 'failed' } },
}

/** The only frame in `bytes`. */
function frameOf(bytes: Uint8Array): { id: number; kind: number; payload: Uint8Array } {
  const frames: { id: number; kind: number; payload: Uint8Array }[] = []
  new FrameDecoder({ maxFrameBytes: LIMITS.maxFrameBytes, onFrame: (frame) => frames.push(frame) }).push(bytes)
  assert.equal(frames.length, 1)
  return frames[0]!
}

/** A frame as it goes out on a stream. */
async function framed(id: number, kind: number, ...parts: Uint8Array[]): Promise<Uint8Array> {
  const sent: Uint8Array[] = []
  const sink = { send: (data: Uint8Array) => sent.push(data) > 0, onDrain: () => Promise.resolve(), writeBufferLength: 0 }
  new FrameWriter(sink, assert.ifError).write(id, kind, ...parts)
  await turn()
  return new Uint8Array(Buffer.concat(sent))
}

const refused = (error: unknown): true => {
  assert.ok(isMeshError(error, 'InvalidMessageError') || isMeshError(error, 'LimitExceededError'), String(error))
  return true
}

const joined = (parts: readonly Uint8Array[]): Uint8Array => new Uint8Array(Buffer.concat(parts))

/** A call's payload with some bytes set: `[offset, byte]`. */
function damaged(...bytes: readonly (readonly [number, number])[]): Uint8Array {
  const payload = joined(encodeCall(CALLS['call-f32-combined']!.call))
  for (const [at, byte] of bytes) payload[at] = byte
  return payload
}

test('the hello vector says revision 1 and 128 credits, both ways', async () => {
  const hello = { revision: 1, credits: 128 }
  const frame = frameOf(vector('expert', 'hello'))
  assert.deepEqual({ id: frame.id, kind: frame.kind, hello: decodeHello(frame.payload) }, { id: 0, kind: FrameKind.hello, hello })
  assert.deepEqual(await framed(0, FrameKind.hello, encodeHello(hello)), vector('expert', 'hello'))
})

test('the cancel vector is a bare frame', async () => {
  const { id, kind, payload } = frameOf(vector('expert', 'cancel'))
  assert.deepEqual({ id, kind, bytes: payload.length }, { id: 2, kind: FrameKind.cancel, bytes: 0 })
  assert.deepEqual(await framed(2, FrameKind.cancel), vector('expert', 'cancel'))
})

for (const [name, { id, call }] of Object.entries(CALLS)) {
  test(`${name}: the vector decodes to the call, and the call encodes to it`, async () => {
    const bytes = vector('expert', name)
    const frame = frameOf(bytes)
    assert.deepEqual({ id: frame.id, kind: frame.kind, call: decodeCall(frame.payload) }, { id, kind: FrameKind.call, call })
    assert.deepEqual(await framed(id, FrameKind.call, ...encodeCall(call)), bytes)
    assert.equal(callFrameBytes(call), bytes.length)
  })
}

for (const [name, { id, reply }] of Object.entries(REPLIES)) {
  test(`${name}: the vector decodes to the reply, and the reply encodes to it`, async () => {
    const bytes = vector('expert', name)
    const frame = frameOf(bytes)
    assert.deepEqual({ id: frame.id, kind: frame.kind, reply: decodeReply(frame.payload) }, { id, kind: FrameKind.reply, reply })
    assert.deepEqual(await framed(id, FrameKind.reply, ...encodeReply(reply)), bytes)
    if (reply.status === 'ok') assert.equal(replyFrameBytes(reply.rowType, reply.rows, reply.width), bytes.length)
  })
}

test('every status has a vector', () => {
  assert.deepEqual(new Set(Object.values(REPLIES).map(({ reply }) => reply.status)), new Set(Object.keys(Status)))
})

test('a status of the future reads as unknown', () => {
  assert.deepEqual(decodeReply(frameOf(vector('expert', 'reply-of-the-future')).payload), { status: 'unknown' })
})

test('reserved bytes, unknown flags and a longer hello or refusal are ignored', () => {
  const { call } = CALLS['call-f32-combined']!
  assert.deepEqual(decodeCall(damaged([0, 0xff], [3, 0xff])), call)
  assert.deepEqual(decodeHello(joined([encodeHello({ revision: 2, credits: 1 }), Uint8Array.of(1, 2)])), { revision: 2, credits: 1 })
  assert.deepEqual(decodeReply(joined([...encodeReply({ status: 'deadline' }), Uint8Array.of(1)])), { status: 'deadline' })
})

const finite = fc.float({ noNaN: true, noDefaultInfinity: true })

const calls: fc.Arbitrary<ExpertCall> = fc
  .record({ rows: fc.integer({ min: 1, max: 5 }), width: fc.integer({ min: 1, max: 40 }) })
  .chain(({ rows, width }) =>
    fc.record({
      model: fc.uint8Array({ minLength: 32, maxLength: 32 }).map((bytes) => Buffer.from(bytes).toString('hex')),
      layer: fc.nat(65_535),
      priority: fc.constantFrom(0, 1, 2),
      deadlineMs: fc.integer({ min: 1, max: LIMITS.maxDeadlineMs }),
      combine: fc.boolean(),
      rowType: fc.constantFrom('f32', 'f16', 'i8'),
      rows: fc.constant(rows),
      width: fc.constant(width),
      x: fc.array(finite, { minLength: rows * width, maxLength: rows * width }).map((values) => Float32Array.from(values)),
      picks: fc.uniqueArray(fc.tuple(fc.nat(65_535), fc.nat(rows - 1), finite), {
        minLength: 1,
        maxLength: 12,
        selector: ([expert, row]) => expert * rows + row,
      }),
    }),
  )
  .map(({ picks, ...call }): ExpertCall => {
    const sorted = picks.sort((a, b) => a[0] - b[0] || a[1] - b[1])
    return {
      ...call,
      pickRow: Uint16Array.from(sorted, ([, row]) => row),
      pickExpert: Uint16Array.from(sorted, ([expert]) => expert),
      pickWeight: Float32Array.from(sorted, ([, , weight]) => weight),
    }
  })

test('calls survive the round trip, their rows as their type keeps them', () => {
  fc.assert(
    fc.property(calls, (call) => {
      const bytes = joined(encodeCall(call))
      const { x, ...rest } = decodeCall(bytes)
      const { x: sent, ...expected } = call
      assert.deepEqual(rest, expected)
      assert.equal(x.length, sent.length)
      if (call.rowType === 'f32') assert.deepEqual(x, sent)
      assert.equal(callFrameBytes(call), bytes.length + 9)
    }),
  )
})

test('damaged calls, replies and hellos give one of two errors or a message within its bounds', () => {
  const originals = [
    ...Object.values(CALLS).map(({ call }) => joined(encodeCall(call))),
    ...Object.values(REPLIES).map(({ reply }) => joined(encodeReply(reply))),
    encodeHello({ revision: 1, credits: 1 }),
  ]
  const damage = fc.record({
    bytes: fc.oneof(fc.constantFrom(...originals), fc.uint8Array({ maxLength: 120 })),
    changes: fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 4 }),
    end: fc.nat(300),
  })
  fc.assert(
    fc.property(damage, ({ bytes, changes, end }) => {
      const input = bytes.slice(0, end)
      for (const [at, byte] of changes) if (input.length > 0) input[at % input.length] = byte
      for (const decode of [decodeCall, decodeReply, decodeHello]) {
        try {
          decode(input)
        } catch (error) {
          refused(error)
        }
      }
    }),
    { numRuns: 1000 },
  )
})

test('a call outside its limits is refused as too large, at the header alone', () => {
  const header = (offset: number, value: number, wide: boolean): Uint8Array => {
    const payload = damaged()
    const view = new DataView(payload.buffer)
    if (wide) view.setUint32(offset, value, true)
    else view.setUint16(offset, value, true)
    return payload
  }
  const bad = {
    'no rows': header(6, 0, false),
    'too many rows': header(6, LIMITS.maxRows + 1, false),
    'no width': header(8, 0, true),
    'too wide': header(8, LIMITS.maxWidth + 1, true),
    'no picks': header(12, 0, true),
    'too many picks': header(12, LIMITS.maxPicks + 1, true),
    'no deadline': header(16, 0, true),
    'a deadline too far': header(16, LIMITS.maxDeadlineMs + 1, true),
  }
  for (const [what, payload] of Object.entries(bad)) assert.throws(() => decodeCall(payload), { name: 'LimitExceededError' }, what)
})

test('a call that contradicts itself is malformed', () => {
  // Picks of the vector: rows at 52, experts at 58, weights at 64.
  const bad = {
    'an unknown row type': damaged([1, 3]),
    'an unknown priority': damaged([2, 3]),
    'a row that is not there': damaged([54, 2]),
    'experts out of order': damaged([58, 8]),
    'rows of an expert out of order': damaged([52, 1]),
    'the same pick twice': damaged([54, 0]),
    'a weight that is not a number': damaged([66, 0xc0], [67, 0x7f]),
    'a byte too few': damaged().subarray(0, -1),
    'a byte too many': joined([damaged(), new Uint8Array(1)]),
    'half a header': damaged().subarray(0, 51),
  }
  for (const [what, payload] of Object.entries(bad)) assert.throws(() => decodeCall(payload), { name: 'InvalidMessageError' }, what)
})

test('a reply that contradicts itself is malformed', () => {
  const ok = (): Uint8Array => joined(encodeReply(REPLIES['reply-ok-f32']!.reply))
  const rows = ok()
  new DataView(rows.buffer).setUint32(4, 3, true)
  const type = ok()
  type[2] = 9
  const bad = {
    'more rows than bytes': rows,
    'an unknown row type': type,
    'half a header': ok().subarray(0, 19),
    'half a refusal': joined(encodeReply({ status: 'failed' })).subarray(0, 7),
  }
  for (const [what, payload] of Object.entries(bad)) assert.throws(() => decodeReply(payload), { name: 'InvalidMessageError' }, what)
  assert.throws(() => decodeHello(new Uint8Array(7)), { name: 'InvalidMessageError' })
  assert.throws(() => decodeHello(encodeHello({ revision: 0, credits: 1 })), { name: 'InvalidMessageError' })
  assert.throws(() => decodeHello(encodeHello({ revision: 1, credits: 0 })), { name: 'InvalidMessageError' })
})

test('a reply of too many rows, or too long a list of experts, is over its limit', () => {
  const many = joined(encodeReply(REPLIES['reply-ok-f32']!.reply))
  new DataView(many.buffer).setUint32(4, LIMITS.maxPicks + 1, true)
  assert.throws(() => decodeReply(many), { name: 'LimitExceededError' })
  const experts = Array.from({ length: LIMITS.maxPicks + 1 }, () => 1)
  assert.throws(() => decodeReply(joined(encodeReply({ status: 'notHeld', experts }))), { name: 'LimitExceededError' })
})

test('times beyond 32 bits are clamped, so that they never read as short', () => {
  const decoded = decodeReply(joined(encodeReply({ ...REPLIES['reply-ok-f32']!.reply, queueUs: 1e12, computeUs: -1 } as ExpertReply)))
  assert.ok(decoded.status === 'ok')
  assert.deepEqual([decoded.queueUs, decoded.computeUs], [0xffff_ffff, 0])
})
