import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import type { Stream } from '@libp2p/interface'
import { lpStream, streamPair } from '@libp2p/utils'
import { askReflectors, createPunchHandler, NO_REACH, offerPunch } from '../../../protocols/punch/index.ts'
import type { DescribedSide, PunchHandlerInit, PunchSide } from '../../../protocols/punch/index.ts'
import { encodeMessage } from '../../../protocols/punch/messages.ts'
import { isMeshError, PeerRefusedError } from '../../../protocols/wire/errors.ts'

const TOKEN = new Uint8Array(16).fill(7)
const MINE: PunchSide = { udp: { mapping: 'independent', endpoints: [{ address: '192.0.2.1', port: 1 }] }, tcp: NO_REACH }
const THEIRS: PunchSide = { udp: { mapping: 'dependent', endpoints: [{ address: '192.0.2.2', port: 2 }] }, tcp: NO_REACH }

interface Begun {
  readonly token: Uint8Array
  readonly mine: DescribedSide
  readonly theirs: PunchSide
}

async function pair(t: TestContext): Promise<[Stream, Stream]> {
  const streams = await streamPair()
  t.after(() => {
    for (const stream of streams) if (stream.status === 'open') stream.abort(new Error('the test is over'))
  })
  return streams
}

function handlerOf(init: Partial<PunchHandlerInit<DescribedSide>> = {}): {
  serve: (stream: Stream) => Promise<void>
  begun: Begun[]
  failed: Error[]
} {
  const begun: Begun[] = []
  const failed: Error[] = []
  const handler = createPunchHandler<DescribedSide>({
    reflectors: async () => await Promise.resolve([{ transport: 'udp' as const, port: 4116 }]),
    describe: async () => await Promise.resolve({ side: THEIRS }),
    begin: (_, token, mine, theirs) => void begun.push({ token, mine, theirs }),
    onFailure: (_, error) => void failed.push(error),
    signal: new AbortController().signal,
    ...init,
  })
  return { serve: (stream) => handler(stream, 'the peer'), begun, failed }
}

const signal = (): AbortSignal => AbortSignal.timeout(5_000)
const refusedAs = (status: string) => (error: unknown) => error instanceof PeerRefusedError && error.status === status

test('a peer tells its reflectors', async (t) => {
  const [out, into] = await pair(t)
  const { serve } = handlerOf()
  const [reflectors] = await Promise.all([askReflectors(out, { signal: signal() }), serve(into)])
  assert.deepEqual(reflectors, [{ transport: 'udp', port: 4116 }])
})

test('both sides know the other and the token, and begin', async (t) => {
  const [out, into] = await pair(t)
  const { serve, begun } = handlerOf()
  const [meeting] = await Promise.all([offerPunch(out, { token: TOKEN, side: MINE }, { signal: signal() }), serve(into)])
  assert.deepEqual(meeting.theirs, THEIRS)
  assert.ok(meeting.rttMs >= 0 && meeting.rttMs < 5_000)
  assert.equal(begun.length, 1)
  assert.deepEqual(
    { ...begun[0], token: Buffer.from(begun[0]!.token) },
    { token: Buffer.from(TOKEN), mine: { side: THEIRS }, theirs: MINE },
  )
})

test('a side that does not take part says why, and offers in quick succession are refused', async (t) => {
  const off = handlerOf({ describe: async () => await Promise.resolve('off' as const) })
  const [out, into] = await pair(t)
  const served = off.serve(into)
  await assert.rejects(offerPunch(out, { token: TOKEN, side: MINE }, { signal: signal() }), refusedAs('off'))
  await served
  const [again, intoAgain] = await pair(t)
  const servedAgain = off.serve(intoAgain)
  await assert.rejects(offerPunch(again, { token: TOKEN, side: MINE }, { signal: signal() }), refusedAs('busy'))
  await servedAgain
  assert.equal(off.begun.length, 0)
})

test('garbage, and a go without an offer, are refused and end the stream', async (t) => {
  for (const bytes of [Uint8Array.of(99), encodeMessage({ kind: 'go' })]) {
    const [out, into] = await pair(t)
    const { serve, begun, failed } = handlerOf()
    const served = serve(into)
    const messages = lpStream(out)
    await messages.write(bytes, { signal: signal() })
    await served
    assert.ok(isMeshError(failed[0], 'InvalidMessageError'), String(failed[0]))
    assert.equal(begun.length, 0)
  }
})

test('a message over the limit is not read', async (t) => {
  const [out, into] = await pair(t)
  const { serve, failed } = handlerOf()
  const served = serve(into)
  await lpStream(out).write(new Uint8Array(4096), { signal: signal() })
  await served
  assert.equal(failed.length, 1)
})

test('a peer that falls silent after its offer is left, and nothing begins', async (t) => {
  const stopping = new AbortController()
  const [out, into] = await pair(t)
  const { serve, begun, failed } = handlerOf({ signal: stopping.signal })
  const served = serve(into)
  const messages = lpStream(out)
  await messages.write(encodeMessage({ kind: 'offer', token: TOKEN, side: MINE }), { signal: signal() })
  await messages.read({ signal: signal() })
  stopping.abort(new Error('enough'))
  await served
  assert.equal(begun.length, 0)
  assert.equal(failed[0]?.message, 'enough')
})
