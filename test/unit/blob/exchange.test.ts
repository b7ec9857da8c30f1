import assert from 'node:assert/strict'
import { test } from 'node:test'
import { encodeReply, encodeRequest, decodeReply, decodeRequest } from '../../../protocols/blob/messages.ts'
import { BLOB_LIMITS as LIMITS, FrameKind } from '../../../protocols/blob/protocol.ts'
import { clientAndHandler, clientAndPuppet, handlerAndPuppet, readerOf, sampleBlob } from '../../helpers/blob-stream.ts'
import { settle } from '../../helpers/expert-stream.ts'

const BLOB = sampleBlob(200_000)
const UNKNOWN = 'ab'.repeat(32)

test('ranges come back whole, in memory of their own, the last one shorter', async (t) => {
  const { client } = await clientAndHandler(t, { read: readerOf(BLOB) })
  const offsets = [0, 61_440, 122_880, 184_320]
  const ranges = await Promise.all(offsets.map((offset) => client.read({ digest: BLOB.digest, offset, length: LIMITS.maxRangeBytes })))
  assert.deepEqual(Buffer.concat(ranges.map(({ bytes }) => bytes)), Buffer.from(BLOB.bytes))
  assert.deepEqual(new Set(ranges.map(({ blobBytes }) => blobBytes)), new Set([BLOB.bytes.length]))
  assert.equal(ranges[3]!.bytes.length, 200_000 - 184_320)
  const size = await client.read({ digest: BLOB.digest, offset: 0, length: 0 })
  assert.deepEqual([size.blobBytes, size.bytes.length], [200_000, 0])
  assert.equal(client.room, LIMITS.maxRequestsInFlight)
})

test('refusals name their status', async (t) => {
  const { client } = await clientAndHandler(t, { read: readerOf(BLOB) })
  const status = (request: Parameters<typeof client.read>[0]): Promise<string> =>
    client.read(request).then(
      () => 'ok',
      (error: { name: string; status: string }) => `${error.name} ${error.status}`,
    )
  assert.equal(await status({ digest: UNKNOWN, offset: 0, length: 1 }), 'PeerRefusedError notFound')
  assert.equal(await status({ digest: BLOB.digest, offset: 200_001, length: 1 }), 'PeerRefusedError outOfRange')
  assert.equal(await status({ digest: BLOB.digest, offset: 0, length: LIMITS.maxRangeBytes + 1 }), 'PeerRefusedError tooLarge')
  assert.equal(await status({ digest: BLOB.digest, offset: 200_000, length: 10 }), 'ok')
})

test('a failure is told to the operator, not to the peer', async (t) => {
  const { client, failures } = await clientAndHandler(t, { read: () => Promise.reject(new Error('disk on fire')) })
  await assert.rejects(client.read({ digest: BLOB.digest, offset: 0, length: 1 }), (error: Error) => {
    assert.doesNotMatch(error.message, /fire/)
    return true
  })
  assert.match(String(failures[0]), /disk on fire/)
})

test('a range waits for its turn, and those behind it too', async (t) => {
  const turns: number[] = []
  const gate = Promise.withResolvers<void>()
  const { client } = await clientAndHandler(t, {
    read: readerOf(BLOB),
    turn: (bytes) => {
      turns.push(bytes)
      return gate.promise
    },
  })
  const ranges = [10, 20].map((length) => client.read({ digest: BLOB.digest, offset: 0, length }))
  await settle()
  assert.deepEqual(turns, [10])
  gate.resolve()
  await Promise.all(ranges)
  assert.deepEqual(turns, [10, 20])
})

test('a client reads only what it asked for', async (t) => {
  const { client, frames, write } = await clientAndPuppet(t)
  const ask = (): Promise<unknown> => client.read({ digest: BLOB.digest, offset: 0, length: 5 })
  const tooShort = ask()
  await settle()
  write(frames[0]!.id, FrameKind.range, ...encodeReply({ status: 'ok', blobBytes: 100, bytes: new Uint8Array(4) }))
  await assert.rejects(tooShort, { name: 'InvalidMessageError' })
  const unasked = ask()
  await settle()
  write(999, FrameKind.range, ...encodeReply({ status: 'notFound' }))
  await assert.rejects(unasked, { name: 'PeerLostError' })
  assert.equal(client.isOpen, false)
  await assert.rejects(ask(), { name: 'PeerLostError' })
})

test('a request that nobody answers ends at its deadline; its late answer is ignored', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const { client, frames, write } = await clientAndPuppet(t)
  const asked = client.read({ digest: BLOB.digest, offset: 0, length: 5 })
  const failed = assert.rejects(asked, { name: 'DeadlineError' })
  await settle()
  t.mock.timers.tick(LIMITS.requestTimeoutMs)
  await failed
  write(frames[0]!.id, FrameKind.range, ...encodeReply({ status: 'notFound' }))
  await settle()
  assert.equal(client.isOpen, true)
  assert.equal(client.room, LIMITS.maxRequestsInFlight)
})

test('a client never has more requests under way than allowed', async (t) => {
  const { client } = await clientAndPuppet(t)
  const asked = Array.from({ length: LIMITS.maxRequestsInFlight }, () => client.read({ digest: BLOB.digest, offset: 0, length: 5 }))
  const ended = Promise.allSettled(asked)
  assert.equal(client.room, 0)
  await assert.rejects(client.read({ digest: BLOB.digest, offset: 0, length: 5 }), { name: 'PeerLostError' })
  client.close()
  assert.ok((await ended).every(({ status }) => status === 'rejected'))
})

test('the handler cuts off too many requests, wrong kinds, large frames and stubborn nonsense', async (t) => {
  const request = encodeRequest({ digest: BLOB.digest, offset: 0, length: 1 })
  const cases: Record<string, (write: (id: number, kind: number, ...parts: Uint8Array[]) => void) => void> = {
    'too many': (write) => {
      for (let id = 1; id <= LIMITS.maxRequestsInFlight + 1; id++) write(id, FrameKind.get, request)
    },
    'a range': (write) => write(1, FrameKind.range, new Uint8Array(8)),
    'a large frame': (write) => write(1, FrameKind.get, new Uint8Array(LIMITS.maxFrameBytes)),
    nonsense: (write) => {
      for (let id = 0; id <= LIMITS.maxMalformedRequests; id++) write(id, FrameKind.get, new Uint8Array(3))
    },
  }
  for (const [name, misdeed] of Object.entries(cases)) {
    const { write, violations, serverStream } = await handlerAndPuppet(t, name === 'too many' ? { turn: () => new Promise(() => {}) } : {})
    misdeed(write)
    await settle()
    assert.ok(violations.length > 0, name)
    assert.notEqual(serverStream.status, 'open', name)
  }
})

test('a malformed request is answered, and the stream goes on', async (t) => {
  const { write, frames } = await handlerAndPuppet(t, { read: readerOf(BLOB) })
  write(1, FrameKind.get, new Uint8Array(3))
  write(2, FrameKind.get, encodeRequest({ digest: BLOB.digest, offset: 1, length: 2 }))
  await settle()
  assert.deepEqual(
    frames.map(({ id, payload }) => [id, decodeReply(payload).status]),
    [
      [1, 'malformed'],
      [2, 'ok'],
    ],
  )
  assert.equal(decodeRequest(encodeRequest({ digest: BLOB.digest, offset: 1, length: 2 })).offset, 1)
})
