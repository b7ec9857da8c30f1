import assert from 'node:assert/strict'
import { test } from 'node:test'
import { decodeHello, decodeReply, encodeCall } from '../../../protocols/expert/messages.ts'
import type { ExpertReply } from '../../../protocols/expert/messages.ts'
import type { ServedCall } from '../../../protocols/expert/handler.ts'
import { EXPERT_LIMITS as LIMITS, FrameKind } from '../../../protocols/expert/protocol.ts'
import { callOf, echoOf, handlerAndPuppet, settle } from '../../helpers/expert-stream.ts'
import type { FrameEnd } from '../../helpers/expert-stream.ts'

const sendCall = ({ write }: FrameEnd, id: number, ...fields: Parameters<typeof callOf>): void =>
  write(id, FrameKind.call, ...encodeCall(callOf(...fields)))

/** Replies so far: [id, status]. */
const replies = ({ frames }: FrameEnd): (readonly [number, ExpertReply['status']])[] =>
  frames.filter((frame) => frame.kind === FrameKind.reply).map((frame) => [frame.id, decodeReply(frame.payload).status] as const)

test('a host says hello first, with its credits', async (t) => {
  const { frames } = await handlerAndPuppet(t, { credits: 7 })
  await settle()
  assert.deepEqual(
    frames.map(({ id, kind, payload }) => ({ id, kind, hello: decodeHello(payload) })),
    [{ id: 0, kind: FrameKind.hello, hello: { revision: 1, credits: 7 } }],
  )
})

test('a call is served with its fields, its driver and its time, and answered once', async (t) => {
  const driver = await handlerAndPuppet(t)
  const before = performance.now()
  sendCall(driver, 5, { layer: 9, combine: false }, 4)
  await settle()
  assert.deepEqual(replies(driver), [[5, 'ok']])
  const { peer, receivedAt, isCancelled, ...call } = driver.served[0]!
  assert.deepEqual(
    { peer, call, cancelled: isCancelled() },
    { peer: 'driver', call: callOf({ layer: 9, combine: false }, 4), cancelled: false },
  )
  assert.ok(receivedAt >= before && receivedAt <= performance.now())
})

test('the rows of a call and of its answer are given back once it is answered', async (t) => {
  const rows: Float32Array[] = []
  const driver = await handlerAndPuppet(t, {
    serve: async (call) => {
      rows.push(call.x, call.x.slice())
      return { ...echoOf(call), data: rows[1]! }
    },
  })
  sendCall(driver, 1)
  await settle()
  assert.deepEqual(replies(driver), [[1, 'ok']])
  assert.deepEqual(
    rows.map(({ length }) => length),
    [0, 0],
  )
})

test('answers go out as they come, not as the calls came', async (t) => {
  const answers = [Promise.withResolvers<ExpertReply>(), Promise.withResolvers<ExpertReply>()]
  const driver = await handlerAndPuppet(t, { serve: (call) => answers[call.layer]!.promise })
  sendCall(driver, 1, { layer: 0 })
  sendCall(driver, 2, { layer: 1 })
  await settle()
  answers[1]!.resolve({ status: 'busy', retryAfterMs: 1 })
  await settle()
  answers[0]!.resolve({ status: 'cancelled' })
  await settle()
  assert.deepEqual(replies(driver), [
    [2, 'busy'],
    [1, 'cancelled'],
  ])
})

test('a cancel reaches the call that it names; any other is ignored', async (t) => {
  const answer = Promise.withResolvers<ExpertReply>()
  const driver = await handlerAndPuppet(t, { serve: () => answer.promise })
  sendCall(driver, 1)
  sendCall(driver, 2)
  driver.write(2, FrameKind.cancel)
  driver.write(99, FrameKind.cancel)
  await settle()
  assert.deepEqual(
    driver.served.map((call) => call.isCancelled()),
    [false, true],
  )
  answer.resolve({ status: 'failed' })
  await settle()
  assert.equal(replies(driver).length, 2)
})

test('a server that fails answers `failed`, without its words, and serves on', async (t) => {
  const driver = await handlerAndPuppet(t, {
    serve: async (call) => {
      if (call.layer === 0) throw new Error('/secret/path')
      return { status: 'deadline' }
    },
  })
  sendCall(driver, 1, { layer: 0 })
  sendCall(driver, 2, { layer: 1 })
  await settle()
  assert.deepEqual(
    new Map(replies(driver)),
    new Map<number, string>([
      [1, 'failed'],
      [2, 'deadline'],
    ]),
  )
  assert.ok(!driver.frames.some((frame) => Buffer.from(frame.payload).includes('secret')))
})

test('an answer that can not be encoded is answered `failed`', async (t) => {
  const impossible: ExpertReply = {
    status: 'ok',
    rowType: 'f32',
    rows: 1,
    width: 1,
    get data(): Float32Array {
      throw new RangeError('array buffer allocation failed')
    },
    queueUs: 0,
    computeUs: 0,
  }
  const driver = await handlerAndPuppet(t, { serve: () => Promise.resolve(impossible) })
  sendCall(driver, 1)
  await settle()
  assert.deepEqual(replies(driver), [[1, 'failed']])
})

test('a malformed call is answered `malformed`, one over a limit `tooLarge`, and the stream lives on', async (t) => {
  const driver = await handlerAndPuppet(t)
  const payload = Buffer.concat(encodeCall(callOf()))
  driver.write(1, FrameKind.call, payload.subarray(0, 20))
  const deep = Uint8Array.from(payload)
  new DataView(deep.buffer).setUint32(16, LIMITS.maxDeadlineMs + 1, true)
  driver.write(2, FrameKind.call, deep)
  sendCall(driver, 3)
  await settle()
  assert.deepEqual(
    new Map(replies(driver)),
    new Map<number, string>([
      [1, 'malformed'],
      [2, 'tooLarge'],
      [3, 'ok'],
    ]),
  )
  assert.deepEqual(
    driver.violations.map((error) => error.name),
    ['InvalidMessageError', 'LimitExceededError'],
  )
})

test('a small call that asks for a reply over the frame limit is `tooLarge`, and is not served', async (t) => {
  const driver = await handlerAndPuppet(t)
  const picks = 2048
  sendCall(driver, 1, {
    combine: false,
    width: 4096,
    x: new Float32Array(4096),
    pickRow: new Uint16Array(picks),
    pickExpert: Uint16Array.from({ length: picks }, (_, i) => i),
    pickWeight: new Float32Array(picks),
  })
  await settle()
  assert.deepEqual(replies(driver), [[1, 'tooLarge']])
  assert.equal(driver.served.length, 0)
})

/** Waits until the host has reset the stream, and tells what it holds against the driver. */
async function ending(driver: Awaited<ReturnType<typeof handlerAndPuppet>>): Promise<string> {
  await settle()
  assert.notEqual(driver.stream.status, 'open')
  assert.notEqual(driver.hostStream.status, 'open')
  return String(driver.violations.at(-1))
}

test('a driver that goes on sending malformed calls is cut off', async (t) => {
  const driver = await handlerAndPuppet(t)
  for (let id = 1; id <= LIMITS.maxMalformedCalls; id++) driver.write(id, FrameKind.call)
  await settle()
  assert.equal(replies(driver).length, LIMITS.maxMalformedCalls)
  driver.write(99, FrameKind.call)
  assert.match(await ending(driver), /InvalidMessageError: call of 0 bytes/)
})

test('a driver that exceeds its credits is cut off, and its calls count as cancelled', async (t) => {
  const driver = await handlerAndPuppet(t, { credits: 2, serve: () => new Promise(() => {}) })
  for (const id of [1, 2]) sendCall(driver, id)
  await settle()
  assert.equal(driver.hostStream.status, 'open')
  sendCall(driver, 3)
  assert.match(await ending(driver), /LimitExceededError: more than the 2 calls granted/)
  assert.deepEqual(
    driver.served.map((call) => call.isCancelled()),
    [true, true],
  )
})

test('a credit comes back with the reply', async (t) => {
  const driver = await handlerAndPuppet(t, { credits: 1 })
  for (let id = 1; id <= 5; id++) {
    sendCall(driver, id)
    await settle()
  }
  assert.equal(replies(driver).length, 5)
  assert.deepEqual(driver.violations, [])
})

const BREACHES: Readonly<Record<string, { breach: (driver: FrameEnd) => void; says: RegExp }>> = {
  'a frame over the limit': {
    breach: ({ stream }) => void stream.send(Uint8Array.of(0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 2)),
    says: /LimitExceededError: frame of 4294967295 bytes/,
  },
  'a frame that is none': {
    breach: ({ stream }) => void stream.send(new Uint8Array(9)),
    says: /InvalidMessageError: frame length 0/,
  },
  'a frame of an unknown kind': { breach: ({ write }) => write(1, 99), says: /InvalidMessageError: frame kind 99/ },
  'a hello': { breach: ({ write }) => write(0, FrameKind.hello), says: /InvalidMessageError: frame kind 1/ },
  'a call id used twice': {
    breach: (driver) => {
      sendCall(driver, 1)
      sendCall(driver, 1)
    },
    says: /InvalidMessageError: call id 1 is used twice/,
  },
}

for (const [what, { breach, says }] of Object.entries(BREACHES)) {
  test(`${what} ends the stream`, async (t) => {
    const driver = await handlerAndPuppet(t, { serve: () => new Promise(() => {}) })
    await settle()
    breach(driver)
    assert.match(await ending(driver), says)
  })
}

test('nothing is served after a breach, even if it came in the same chunk', async (t) => {
  const driver = await handlerAndPuppet(t)
  driver.write(1, 99)
  sendCall(driver, 2)
  await ending(driver)
  assert.equal(driver.served.length, 0)
})

test('a frame that is begun and not ended costs the driver its stream', async (t) => {
  const driver = await handlerAndPuppet(t)
  t.mock.timers.enable({ apis: ['setTimeout'] })
  driver.stream.send(Uint8Array.of(200, 0, 0))
  await settle()
  t.mock.timers.tick(LIMITS.frameTimeoutMs - 1)
  await settle()
  assert.equal(driver.hostStream.status, 'open')
  t.mock.timers.tick(1)
  assert.match(await ending(driver), /DeadlineError: a frame was not whole within 120000 ms/)
})

test('a stream whose every chunk ends within a frame lives as long as frames end in time', async (t) => {
  const driver = await handlerAndPuppet(t)
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const frame = Uint8Array.of(5, 0, 0, 0, 9, 0, 0, 0, FrameKind.cancel)
  driver.stream.send(frame.subarray(0, 4))
  for (let i = 0; i < 4; i++) {
    await settle()
    t.mock.timers.tick(LIMITS.frameTimeoutMs * 0.75)
    driver.stream.send(Buffer.concat([frame.subarray(4), frame.subarray(0, 4)]))
  }
  driver.stream.send(frame.subarray(4))
  await settle()
  t.mock.timers.tick(2 * LIMITS.frameTimeoutMs)
  await settle()
  assert.equal(driver.hostStream.status, 'open')
  assert.deepEqual(driver.violations, [])
})

test('a driver that hangs up takes its calls with it, and is blamed for nothing', async (t) => {
  const calls: ServedCall[] = []
  const answer = Promise.withResolvers<ExpertReply>()
  const driver = await handlerAndPuppet(t, {
    serve: (call) => {
      calls.push(call)
      return answer.promise
    },
  })
  sendCall(driver, 1)
  await settle()
  driver.stream.abort(new Error('gone'))
  await settle()
  assert.equal(calls[0]!.isCancelled(), true)
  answer.resolve({ status: 'cancelled' })
  await settle()
  assert.deepEqual(driver.violations, [])
})

test('a driver that only ends its own side gets the stream closed', async (t) => {
  const driver = await handlerAndPuppet(t, { serve: () => new Promise(() => {}) })
  sendCall(driver, 1)
  await settle()
  await driver.stream.close()
  await settle()
  assert.equal(driver.hostStream.status, 'closed')
  assert.equal(driver.served[0]!.isCancelled(), true)
  assert.deepEqual(driver.violations, [])
})
