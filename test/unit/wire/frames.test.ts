import assert from 'node:assert/strict'
import { setImmediate as turn } from 'node:timers/promises'
import { test } from 'node:test'
import fc from 'fast-check'
import { isMeshError } from '../../../protocols/wire/errors.ts'
import { FRAME_HEADER_BYTES, FrameDecoder, FrameWriter, MAX_UNSENT_BYTES } from '../../../protocols/wire/frames.ts'
import type { Frame, FrameSink } from '../../../protocols/wire/frames.ts'
import { vector } from '../../helpers/vector.ts'

const LIMIT = 1024

const VECTOR_FRAMES: readonly Frame[] = [
  { id: 0, kind: 0, payload: new Uint8Array() },
  { id: 1, kind: 255, payload: Uint8Array.of(7) },
  { id: 0xffff_ffff, kind: 4, payload: Uint8Array.from({ length: 300 }, (_, i) => i % 256) },
]

const frames = fc.array(
  fc.record({ id: fc.nat(0xffff_ffff), kind: fc.nat(255), payload: fc.uint8Array({ maxLength: 60 }) }, { noNullPrototype: true }),
  { maxLength: 12 },
)

/** All frames in `chunks`, copied. */
function decode(chunks: Iterable<Uint8Array>, maxFrameBytes = LIMIT): Frame[] {
  const out: Frame[] = []
  const decoder = new FrameDecoder({
    maxFrameBytes,
    onFrame: ({ id, kind, payload }) => out.push({ id, kind, payload: Uint8Array.from(payload) }),
  })
  for (const chunk of chunks) decoder.push(chunk)
  return out
}

/** `bytes` in pieces of the given lengths, over and over. */
function* cut(bytes: Uint8Array, lengths: readonly number[]): Generator<Uint8Array> {
  for (let at = 0, i = 0; at < bytes.length; i++) {
    const length = lengths[i % lengths.length]!
    yield bytes.subarray(at, at + length)
    at += length
  }
}

/** A sink that records what it is sent, full whenever `full` says so. */
class RecordingSink implements FrameSink {
  readonly sent: Uint8Array[] = []
  writeBufferLength = 0
  full = false
  broken: Error | null = null
  drained = Promise.withResolvers<void>()

  send(data: Uint8Array): boolean {
    if (this.broken !== null) throw this.broken
    this.sent.push(Uint8Array.from(data))
    return !this.full
  }

  onDrain(): Promise<void> {
    return this.drained.promise
  }

  get bytes(): Uint8Array {
    return new Uint8Array(Buffer.concat(this.sent))
  }
}

function writerTo(sink: FrameSink) {
  const errors: string[] = []
  return { writer: new FrameWriter(sink, (error) => errors.push(`${error.name}: ${error.message}`)), errors }
}

/** The bytes that a writer makes of frames. */
async function encode(list: readonly Frame[]): Promise<Uint8Array> {
  const sink = new RecordingSink()
  const { writer } = writerTo(sink)
  for (const { id, kind, payload } of list) writer.write(id, kind, payload)
  await turn()
  return sink.bytes
}

test('the vector decodes to its frames, and its frames encode to it', async () => {
  const bytes = vector('wire', 'frames')
  assert.deepEqual(decode([bytes]), VECTOR_FRAMES)
  assert.deepEqual(await encode(VECTOR_FRAMES), bytes)
})

test('however the stream is cut, the same frames come out', async () => {
  await fc.assert(
    fc.asyncProperty(frames, fc.array(fc.integer({ min: 1, max: 90 }), { minLength: 1, maxLength: 8 }), async (list, lengths) => {
      assert.deepEqual(decode(cut(await encode(list), lengths)), list)
    }),
  )
})

test('any bytes give frames or one of two errors', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 200 }), fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1 }), (bytes, lengths) => {
      try {
        decode(cut(bytes, lengths))
      } catch (error) {
        assert.ok(isMeshError(error, 'InvalidMessageError') || isMeshError(error, 'LimitExceededError'), String(error))
      }
    }),
  )
})

test('a frame over the limit is refused at its header, before memory is taken', () => {
  const maxFrameBytes = 2 ** 30
  for (const lengths of [[FRAME_HEADER_BYTES], [1]]) {
    const header = new Uint8Array(FRAME_HEADER_BYTES)
    new DataView(header.buffer).setUint32(0, maxFrameBytes + 1, true)
    const before = process.memoryUsage().arrayBuffers
    assert.throws(() => decode(cut(header, lengths), maxFrameBytes), {
      name: 'LimitExceededError',
      message: /1073741825 bytes.*1073741824/,
    })
    assert.ok(process.memoryUsage().arrayBuffers - before < maxFrameBytes / 2)
  }
})

test('a frame exactly at the limit passes; one byte more does not', async () => {
  const frame = { id: 9, kind: 2, payload: new Uint8Array(LIMIT - 5) }
  const bytes = await encode([frame])
  assert.deepEqual(decode([bytes], LIMIT), [frame])
  assert.throws(() => decode([bytes], LIMIT - 1), { name: 'LimitExceededError' })
})

test('a length that does not even cover id and kind is invalid', () => {
  for (const length of [0, 4]) {
    assert.throws(() => decode([Uint8Array.of(length, 0, 0, 0, 1, 0, 0, 0, 2)]), { name: 'InvalidMessageError' })
  }
})

test('a decoder says whether a frame is under way', async () => {
  const bytes = await encode([{ id: 1, kind: 2, payload: new Uint8Array(8) }])
  const decoder = new FrameDecoder({ maxFrameBytes: LIMIT, onFrame: () => {} })
  const states = Array.from(bytes, (byte) => {
    decoder.push(Uint8Array.of(byte))
    return decoder.isPartial
  })
  assert.deepEqual(states, [...Array.from({ length: bytes.length - 1 }, () => true), false])
})

test('frames of one turn leave in one send, in order, parts joined', async () => {
  const sink = new RecordingSink()
  const { writer } = writerTo(sink)
  writer.write(1, 2, Uint8Array.of(1), Uint8Array.of(2, 3))
  await Promise.resolve()
  writer.write(2, 4)
  await turn()
  assert.equal(sink.sent.length, 1)
  assert.deepEqual(decode(sink.sent), [
    { id: 1, kind: 2, payload: Uint8Array.of(1, 2, 3) },
    { id: 2, kind: 4, payload: new Uint8Array() },
  ])
  assert.equal(writer.bytesSent, sink.bytes.length)
})

test('frames too large to be joined are sent one by one, in order', async () => {
  const list = [40_000, 40_000, 100_000, 10].map((length, id) => ({ id, kind: 1, payload: new Uint8Array(length).fill(id) }))
  const sink = new RecordingSink()
  const { writer } = writerTo(sink)
  for (const { id, kind, payload } of list) writer.write(id, kind, payload)
  await turn()
  assert.ok(sink.sent.length > 1)
  assert.ok(sink.sent.every((batch) => batch.length <= 100_000))
  assert.deepEqual(decode(sink.sent, 200_000), list)
})

test('a full stream is waited for; what is written meanwhile follows', async () => {
  const sink = new RecordingSink()
  const { writer } = writerTo(sink)
  sink.full = true
  writer.write(1, 1)
  await turn()
  writer.write(2, 1)
  writer.write(3, 1)
  await turn()
  assert.deepEqual(
    decode(sink.sent).map((frame) => frame.id),
    [1],
  )
  sink.full = false
  sink.drained.resolve()
  await turn()
  assert.deepEqual(
    decode(sink.sent).map((frame) => frame.id),
    [1, 2, 3],
  )
})

test('a stream that breaks is told once, and later frames are dropped', async () => {
  const sink = new RecordingSink()
  const { writer, errors } = writerTo(sink)
  sink.broken = new Error('closed')
  writer.write(1, 1)
  await turn()
  sink.broken = null
  writer.write(2, 1)
  await turn()
  assert.deepEqual(errors, ['Error: closed'])
  assert.deepEqual(sink.sent, [])
})

test('a peer that does not read is given up before its bytes fill the memory, wherever they wait', async () => {
  const part = new Uint8Array(MAX_UNSENT_BYTES / 4)
  const queued = new RecordingSink()
  queued.full = true
  const first = writerTo(queued)
  first.writer.write(0, 1)
  await turn()
  for (let id = 1; id <= 3; id++) first.writer.write(id, 1, part)
  assert.equal(first.errors.length, 0)
  first.writer.write(4, 1, part)
  assert.match(first.errors.join(), /^LimitExceededError: .*67108864 bytes unread$/)

  const buffered = new RecordingSink()
  const second = writerTo(buffered)
  buffered.writeBufferLength = MAX_UNSENT_BYTES
  second.writer.write(1, 1)
  await turn()
  assert.match(second.errors.join(), /^LimitExceededError: [^,]*$/)
  assert.deepEqual(buffered.sent, [])
})
