import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DeadlineError, PeerRefusedError } from '../../../protocols/wire/errors.ts'
import { decodeReply, encodeHello, encodeReply } from '../../../protocols/expert/messages.ts'
import type { ExpertReply } from '../../../protocols/expert/messages.ts'
import { EXPERT_LIMITS as LIMITS, FrameKind } from '../../../protocols/expert/protocol.ts'
import { callOf, clientAndPuppet, echoOf, settle } from '../../helpers/expert-stream.ts'
import { vector } from '../../helpers/vector.ts'

/** Fails at once where a promise that must reject does not. */
async function rejection(promise: Promise<unknown>): Promise<Error> {
  return await promise.then(
    () => assert.fail('it resolved'),
    (error: Error) => error,
  )
}

test('a client is ready once the host has said hello', async (t) => {
  const { client } = await clientAndPuppet(t, { credits: 1 })
  await client.ready()
  assert.equal(client.isOpen, true)
})

test('a host that says no hello is given up after its time', async (t) => {
  const { client, closed } = await clientAndPuppet(t)
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const refused = rejection(client.ready())
  t.mock.timers.tick(LIMITS.helloTimeoutMs - 1)
  assert.equal(client.isOpen, true)
  t.mock.timers.tick(1)
  assert.equal((await refused).name, 'DeadlineError')
  assert.equal(client.isOpen, false)
  assert.equal(closed.length, 1)
})

test('calls are pipelined, and replies find them in any order', async (t) => {
  const { client, calls, reply } = await clientAndPuppet(t, { credits: 8 })
  const results = [1, 2, 3].map((mark) => client.call(callOf({}, mark)))
  await settle()
  const sent = calls()
  assert.deepEqual(
    sent.map(({ call }) => call.x[0]),
    [1, 2, 3],
  )
  for (const { id, call } of sent.toReversed()) reply(id, echoOf(call))
  assert.deepEqual(
    (await Promise.all(results)).map((result) => [...result.data]),
    [
      [1, -1],
      [2, -2],
      [3, -3],
    ],
  )
  assert.equal(client.load, 0)
})

test('no more calls are in flight than granted; the others follow as replies come, first come first served', async (t) => {
  const { client, calls, reply } = await clientAndPuppet(t, { credits: 2 })
  const results = [1, 2, 3, 4, 5].map((mark) => client.call(callOf({}, mark)))
  const inFlight: number[] = []
  for (let replied = 0; replied < 5; replied++) {
    await settle()
    inFlight.push(calls().length - replied)
    const { id, call } = calls()[replied]!
    reply(id, echoOf(call))
  }
  await Promise.all(results)
  assert.deepEqual(inFlight, [2, 2, 2, 2, 1])
  assert.deepEqual(
    calls().map(({ call }) => call.x[0]),
    [1, 2, 3, 4, 5],
  )
})

test('calls made before the hello wait for it', async (t) => {
  const { client, calls, reply, write } = await clientAndPuppet(t)
  const result = client.call(callOf())
  await settle()
  assert.equal(calls().length, 0)
  write(0, FrameKind.hello, encodeHello({ revision: 1, credits: 1 }))
  await settle()
  reply(calls()[0]!.id, echoOf(callOf()))
  await result
})

test('a host that grants more than the limit is not believed', async (t) => {
  const { client, calls } = await clientAndPuppet(t, { credits: 0xffff_ffff })
  const results = Array.from({ length: LIMITS.maxCallsInFlight + 1 }, () => rejection(client.call(callOf())))
  await settle()
  assert.equal(calls().length, LIMITS.maxCallsInFlight)
  client.close()
  await Promise.all(results)
})

test('past its deadline a call fails, is cancelled at the host, and gives its credit back with the late reply', async (t) => {
  const { client, calls, cancels, reply } = await clientAndPuppet(t, { credits: 1 })
  await client.ready()
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const late = rejection(client.call(callOf({ deadlineMs: 500 })))
  const next = client.call(callOf({ deadlineMs: 5000 }, 2))
  await settle()
  t.mock.timers.tick(500)
  const error = await late
  assert.ok(error instanceof DeadlineError)
  assert.match(error.message, /host host did not answer within 500 ms/)
  await settle()
  const [first] = calls()
  assert.deepEqual(cancels(), [first!.id])
  assert.equal(calls().length, 1, 'the credit is still out')
  reply(first!.id, { status: 'cancelled' })
  await settle()
  reply(calls()[1]!.id, echoOf(callOf({}, 2)))
  assert.deepEqual([...(await next).data], [2, -2])
})

test('a call that meets its deadline while it waits for a credit is never sent', async (t) => {
  const { client, calls, cancels, reply } = await clientAndPuppet(t, { credits: 1 })
  await client.ready()
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const first = client.call(callOf({ deadlineMs: 5000 }))
  const waiting = rejection(client.call(callOf({ deadlineMs: 100 })))
  await settle()
  t.mock.timers.tick(100)
  assert.equal((await waiting).name, 'DeadlineError')
  reply(calls()[0]!.id, echoOf(callOf()))
  await first
  await settle()
  assert.deepEqual([calls().length, cancels().length, client.load], [1, 0, 0])
})

test('an aborted signal ends the call with its reason, and no listener stays behind', async (t) => {
  const { client, calls, cancels, reply } = await clientAndPuppet(t, { credits: 4 })
  const abort = new AbortController()
  const reason = new Error('the user left')
  let listeners = 0
  t.mock.method(abort.signal, 'addEventListener', function (this: AbortSignal, ...args: Parameters<AbortSignal['addEventListener']>) {
    listeners++
    EventTarget.prototype.addEventListener.apply(this, args)
  })
  t.mock.method(abort.signal, 'removeEventListener', function (this: AbortSignal, ...args: Parameters<AbortSignal['removeEventListener']>) {
    listeners--
    EventTarget.prototype.removeEventListener.apply(this, args)
  })
  const answered = client.call(callOf(), { signal: abort.signal })
  const aborted = rejection(client.call(callOf({}, 2), { signal: abort.signal }))
  await settle()
  reply(calls()[0]!.id, echoOf(callOf()))
  await answered
  abort.abort(reason)
  assert.equal(await aborted, reason)
  await settle()
  assert.deepEqual(cancels(), [calls()[1]!.id])
  assert.equal(listeners, 0)
  assert.equal(await rejection(client.call(callOf(), { signal: abort.signal })), reason)
  assert.equal(calls().length, 2, 'a call of an aborted signal is not sent')
})

for (const status of ['busy', 'notHeld', 'cancelled', 'deadline', 'malformed', 'tooLarge', 'failed'] as const) {
  test(`a host's "${status}" rejects with that status, and the next call goes through`, async (t) => {
    const { client, calls, reply } = await clientAndPuppet(t, { credits: 1 })
    const refused = rejection(client.call(callOf({ layer: 5 })))
    const next = client.call(callOf())
    await settle()
    const answers: Partial<Record<typeof status, ExpertReply>> = {
      busy: { status: 'busy', retryAfterMs: 120 },
      notHeld: { status: 'notHeld', experts: [3, 9] },
    }
    reply(calls()[0]!.id, answers[status] ?? ({ status } as ExpertReply))
    const error = await refused
    assert.ok(error instanceof PeerRefusedError)
    assert.equal(error.status, status)
    assert.equal(error.retryAfterMs, status === 'busy' ? 120 : 0)
    assert.match(error.message, status === 'notHeld' ? /layer 5: notHeld \(experts 3, 9\)$/ : new RegExp(`layer 5: ${status}$`))
    await settle()
    reply(calls()[1]!.id, echoOf(callOf()))
    await next
  })
}

test('a status of the future is a refusal, too', async (t) => {
  const { client, calls, write } = await clientAndPuppet(t, { credits: 1 })
  const refused = rejection(client.call(callOf()))
  await settle()
  write(calls()[0]!.id, FrameKind.reply, vector('expert', 'reply-of-the-future').subarray(9))
  assert.equal(((await refused) as PeerRefusedError).status, 'unknown')
})

test('a list of experts that fills a frame makes a short error', async (t) => {
  const { client, calls, reply } = await clientAndPuppet(t, { credits: 1 })
  const refused = rejection(client.call(callOf()))
  await settle()
  reply(calls()[0]!.id, { status: 'notHeld', experts: Array.from({ length: LIMITS.maxPicks }, (_, i) => i) })
  assert.ok((await refused).message.length < 200)
})

const WRONG_REPLIES: Readonly<Record<string, Uint8Array[]>> = {
  'too few rows': encodeReply({ ...echoOf(callOf()), rows: 1 }),
  'rows of another width': encodeReply({ ...echoOf(callOf()), rows: 2, width: 1 }),
  'a number that is none': encodeReply({ ...echoOf(callOf()), rows: 2, data: Float32Array.of(1, 2, NaN, 4) }),
  'an infinity': encodeReply({ ...echoOf(callOf()), rows: 2, data: Float32Array.of(1, 2, -Infinity, 4) }),
  'bytes that are no reply': [new Uint8Array(3)],
}

for (const [what, payload] of Object.entries(WRONG_REPLIES)) {
  test(`${what} in a reply rejects that call only`, async (t) => {
    const { client, calls, write, reply } = await clientAndPuppet(t, { credits: 2 })
    const call = callOf({
      rows: 2,
      x: Float32Array.of(1, 2, 3, 4),
      pickRow: Uint16Array.of(0, 1),
      pickExpert: Uint16Array.of(3, 3),
      pickWeight: Float32Array.of(1, 1),
    })
    const wrong = rejection(client.call(call))
    const right = client.call(callOf())
    await settle()
    write(calls()[0]!.id, FrameKind.reply, ...payload)
    assert.equal((await wrong).name, 'InvalidMessageError')
    reply(calls()[1]!.id, echoOf(callOf()))
    await right
  })
}

test('without combining, one row per pick is expected', async (t) => {
  const { client, calls, reply } = await clientAndPuppet(t, { credits: 1 })
  const call = callOf({
    combine: false,
    pickRow: Uint16Array.of(0, 0),
    pickExpert: Uint16Array.of(3, 4),
    pickWeight: Float32Array.of(1, 1),
  })
  const result = client.call(call)
  await settle()
  reply(calls()[0]!.id, { ...echoOf(call), rows: 2, data: Float32Array.of(1, 2, 3, 4) })
  assert.deepEqual([...(await result).data], [1, 2, 3, 4])
})

test('when the stream is lost, every pending call rejects, waiting or sent, and later ones at once', async (t) => {
  const { client, calls, stream, closed } = await clientAndPuppet(t, { credits: 1 })
  const pending = [client.call(callOf()), client.call(callOf())].map(rejection)
  await settle()
  assert.equal(calls().length, 1)
  stream.abort(new Error('power cut'))
  for (const error of await Promise.all(pending)) assert.equal(error.name, 'PeerLostError')
  assert.equal((await rejection(client.call(callOf()))).name, 'PeerLostError')
  assert.equal((await rejection(client.ready().then(() => client.call(callOf())))).name, 'PeerLostError')
  assert.deepEqual([client.isOpen, client.load, closed.length], [false, 0, 1])
})

test('a host that ends its side is lost, too', async (t) => {
  const { client, stream } = await clientAndPuppet(t, { credits: 1 })
  const pending = rejection(client.call(callOf()))
  await settle()
  await stream.close()
  assert.equal((await pending).name, 'PeerLostError')
})

test('closing rejects what is pending, and twice is as good as once', async (t) => {
  const { client, closed } = await clientAndPuppet(t, { credits: 1 })
  const pending = rejection(client.call(callOf()))
  client.close()
  client.close()
  assert.match((await pending).message, /lost host host: closed by this side/)
  assert.equal(closed.length, 1)
})

test('a call too large for a frame, or whose reply would be, is refused here and takes no credit', async (t) => {
  const { client, calls, reply } = await clientAndPuppet(t, { credits: 1 })
  const wide = { width: LIMITS.maxWidth, rows: 300 }
  const tooLarge = await rejection(client.call(callOf({ ...wide, x: new Float32Array(0) })))
  assert.equal(tooLarge.name, 'LimitExceededError')
  const picks = 300
  const bloated = callOf({
    combine: false,
    width: LIMITS.maxWidth,
    x: new Float32Array(LIMITS.maxWidth),
    pickRow: new Uint16Array(picks),
    pickExpert: Uint16Array.from({ length: picks }, (_, i) => i),
    pickWeight: new Float32Array(picks),
  })
  assert.equal((await rejection(client.call(bloated))).name, 'LimitExceededError')
  const next = client.call(callOf())
  await settle()
  reply(calls()[0]!.id, echoOf(callOf()))
  await next
})

const BREACHES: Readonly<Record<string, (host: Awaited<ReturnType<typeof clientAndPuppet>>) => void>> = {
  'a second hello': ({ write }) => write(0, FrameKind.hello, encodeHello({ revision: 1, credits: 100 })),
  'a reply to a call that was not made': ({ reply }) => reply(77, { status: 'failed' }),
  'a call': ({ write }) => write(1, FrameKind.call),
  'a frame of an unknown kind': ({ write }) => write(1, 99),
  'a frame over the limit': ({ stream }) => void stream.send(Uint8Array.of(0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0, 3)),
}

for (const [what, breach] of Object.entries(BREACHES)) {
  test(`${what} from the host ends the stream`, async (t) => {
    const host = await clientAndPuppet(t, { credits: 1 })
    await host.client.ready()
    const pending = rejection(host.client.call(callOf()))
    await settle()
    breach(host)
    assert.equal((await pending).name, 'PeerLostError')
    await settle()
    assert.notEqual(host.stream.status, 'open')
  })
}

test('what was sent and received is counted in bytes', async (t) => {
  const { client, calls, reply, frames } = await clientAndPuppet(t, { credits: 1 })
  const result = client.call(callOf())
  await settle()
  reply(calls()[0]!.id, echoOf(callOf()))
  await result
  const size = (payload: Uint8Array): number => payload.length + 9
  assert.equal(client.bytesSent, size(frames[0]!.payload))
  assert.equal(client.bytesReceived, size(encodeHello({ revision: 1, credits: 1 })) + size(Buffer.concat(encodeReply(echoOf(callOf())))))
  assert.equal(decodeReply(Buffer.concat(encodeReply(echoOf(callOf())))).status, 'ok')
})
