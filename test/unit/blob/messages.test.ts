import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { FrameDecoder } from '../../../protocols/wire/frames.ts'
import { isMeshError } from '../../../protocols/wire/errors.ts'
import { decodeReply, decodeRequest, encodeReply, encodeRequest } from '../../../protocols/blob/messages.ts'
import type { RangeReply, RangeRequest } from '../../../protocols/blob/messages.ts'
import { BLOB_LIMITS as LIMITS, FrameKind } from '../../../protocols/blob/protocol.ts'
import { vector } from '../../helpers/vector.ts'

const DIGEST = Buffer.from(Uint8Array.from({ length: 32 }, (_, i) => i)).toString('hex')

const REQUESTS: Readonly<Record<string, { id: number; request: RangeRequest }>> = {
  get: { id: 7, request: { digest: DIGEST, offset: 2 ** 32 + 5, length: LIMITS.maxRangeBytes } },
  'get-size': { id: 8, request: { digest: DIGEST, offset: 0, length: 0 } },
}
const REPLIES: Readonly<Record<string, { id: number; reply: RangeReply }>> = {
  'range-ok': { id: 7, reply: { status: 'ok', blobBytes: 2 ** 33, bytes: Uint8Array.of(1, 2, 3) } },
  'range-busy': { id: 7, reply: { status: 'busy', retryAfterMs: 1234 } },
  'range-not-found': { id: 7, reply: { status: 'notFound' } },
  'range-out-of-range': { id: 7, reply: { status: 'outOfRange' } },
  'range-malformed': { id: 7, reply: { status: 'malformed' } },
  'range-too-large': { id: 7, reply: { status: 'tooLarge' } },
  'range-failed': { id: 7, reply: { status: 'failed' } },
}

function frameOf(name: string): { id: number; kind: number; payload: Uint8Array } {
  const frames: { id: number; kind: number; payload: Uint8Array }[] = []
  new FrameDecoder({ maxFrameBytes: LIMITS.maxFrameBytes, onFrame: (frame) => frames.push({ ...frame }) }).push(vector('blob', name))
  assert.equal(frames.length, 1)
  return frames[0]!
}

for (const [name, { id, request }] of Object.entries(REQUESTS)) {
  test(`vector ${name} is read and written`, () => {
    const frame = frameOf(name)
    assert.deepEqual([frame.id, frame.kind], [id, FrameKind.get])
    assert.deepEqual(decodeRequest(frame.payload), request)
    assert.deepEqual(Buffer.from(encodeRequest(request)), Buffer.from(frame.payload))
  })
}

for (const [name, { id, reply }] of Object.entries(REPLIES)) {
  test(`vector ${name} is read and written`, () => {
    const frame = frameOf(name)
    assert.deepEqual([frame.id, frame.kind], [id, FrameKind.range])
    assert.deepEqual(Buffer.concat(encodeReply(reply)), Buffer.from(frame.payload))
    const read = decodeReply(frame.payload)
    assert.deepEqual(read.status === 'ok' ? { ...read, bytes: Uint8Array.from(read.bytes) } : read, reply)
  })
}

test('a status of the future is a refusal', () => {
  assert.deepEqual(decodeReply(frameOf('range-of-the-future').payload), { status: 'unknown' })
})

test('limits are enforced on what is read', () => {
  const request = REQUESTS['get']!.request
  const fails = (name: string, work: () => unknown): void => assert.throws(work, (error) => isMeshError(error, name), `expected ${name}`)
  fails('LimitExceededError', () => decodeRequest(encodeRequest({ ...request, length: LIMITS.maxRangeBytes + 1 })))
  const far = encodeRequest(request)
  far.fill(0xff, 32, 40)
  fails('LimitExceededError', () => decodeRequest(far))
  fails('InvalidMessageError', () => decodeRequest(encodeRequest(request).subarray(1)))
  fails('InvalidMessageError', () => decodeReply(new Uint8Array(7)))
  fails('InvalidMessageError', () => decodeReply(Uint8Array.of(100, 0, 0, 0, 0, 0, 0, 0, 1)))
  const busy = encodeReply({ status: 'busy', retryAfterMs: 0 })[0]!
  busy.fill(0xff, 4, 8)
  assert.deepEqual(decodeReply(busy), { status: 'busy', retryAfterMs: LIMITS.maxRetryAfterMs })
})

test('any bytes are read or refused', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
      for (const decode of [decodeRequest, decodeReply]) {
        try {
          decode(bytes)
        } catch (error) {
          assert.ok(isMeshError(error, 'InvalidMessageError') || isMeshError(error, 'LimitExceededError'), String(error))
        }
      }
    }),
  )
})
