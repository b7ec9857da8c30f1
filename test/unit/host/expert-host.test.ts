import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { ServedCall } from '../../../protocols/expert/handler.ts'
import type { ExpertReply } from '../../../protocols/expert/messages.ts'
import type { ExpertJob, Experts } from '../../../node/engine/engine.ts'
import { weightedSum } from '../../../node/engine/combine.ts'
import { ExpertHost } from '../../../node/host/expert-host.ts'
import { callOf, settle } from '../../helpers/expert-stream.ts'

const DIGEST = '0f'.repeat(32)
const HIDDEN = 2
const HELD = [3, 4, 5]

/** Experts of one layer: expert e gives e times its row, as soon as the test lets a job go. */
class GatedExperts implements Experts {
  /** Jobs begun, in order. */
  readonly begun: ExpertJob[] = []
  readonly #gates: { open: () => void; fail: (error: Error) => void }[] = []

  async run(job: ExpertJob): Promise<Float32Array> {
    this.begun.push(job)
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.#gates.push({ open: resolve, fail: reject })
    await promise
    const out = new Float32Array(job.pickRow.length * HIDDEN)
    job.pickRow.forEach((row, i) => {
      for (let d = 0; d < HIDDEN; d++) out[i * HIDDEN + d] = job.pickExpert[i]! * job.x[row * HIDDEN + d]!
    })
    const { rows, pickRow, pickWeight } = job
    if (pickWeight === undefined) return out
    const into = new Float32Array(rows * HIDDEN)
    weightedSum({ rows, width: HIDDEN, pickRow, pickWeight, outputs: out, into })
    return into
  }

  /** Lets the longest-running job end, and what follows from it happen. */
  async finish(error?: Error): Promise<void> {
    const gate = this.#gates.shift()
    assert.ok(gate, 'no job is running')
    if (error === undefined) gate.open()
    else gate.fail(error)
    await settle()
  }

  has(layer: number, expert: number): boolean {
    return layer === 0 && HELD.includes(expert)
  }

  async openShard(): Promise<void> {}
  async closeShard(): Promise<void> {}
  async close(): Promise<void> {}
}

function setUp(concurrency = 1) {
  const experts = new GatedExperts()
  const host = new ExpertHost({ concurrency })
  host.add({ digest: DIGEST, hiddenSize: HIDDEN, experts })
  return { host, experts }
}

function served(fields: Partial<ServedCall> = {}, mark = 1): ServedCall {
  return { ...callOf({}, mark), peer: 'driver', receivedAt: performance.now(), isCancelled: () => false, ...fields }
}

/** First numbers of the rows that jobs were begun with. */
const marks = (experts: GatedExperts): (number | undefined)[] => experts.begun.map((job) => job.x[0])

test('a combined call gets one weighted sum per row', async () => {
  const { host, experts } = setUp()
  const call = served({
    rows: 2,
    x: Float32Array.of(1, 2, 10, 20),
    pickRow: Uint16Array.of(0, 1, 0),
    pickExpert: Uint16Array.of(3, 3, 4),
    pickWeight: Float32Array.of(0.5, 1, 0.25),
  })
  const reply = host.serve(call)
  await settle()
  await experts.finish()
  const { queueUs, computeUs, ...rest } = (await reply) as Extract<ExpertReply, { status: 'ok' }>
  assert.deepEqual(rest, { status: 'ok', rowType: 'f32', rows: 2, width: 2, data: Float32Array.of(2.5, 5, 30, 60) })
  assert.ok(queueUs >= 0 && computeUs >= 0)
})

test('without combining, each pick gets its own row, unweighted', async () => {
  const { host, experts } = setUp()
  const reply = host.serve(
    served({ combine: false, pickRow: Uint16Array.of(0, 0), pickExpert: Uint16Array.of(3, 5), pickWeight: Float32Array.of(0.1, 0.2) }),
  )
  await settle()
  await experts.finish()
  const ok = (await reply) as Extract<ExpertReply, { status: 'ok' }>
  assert.deepEqual([ok.rows, ...ok.data], [2, 3, -3, 5, -5])
})

test('experts that are not held are named, each once, and nothing is computed', async () => {
  const { host, experts } = setUp()
  const picks = { pickRow: Uint16Array.of(0, 0, 0), pickExpert: Uint16Array.of(2, 3, 9), pickWeight: Float32Array.of(1, 1, 1) }
  assert.deepEqual(await host.serve(served(picks)), { status: 'notHeld', experts: [2, 9] })
  assert.deepEqual(await host.serve(served({ ...picks, layer: 1 })), { status: 'notHeld', experts: [2, 3, 9] })
  assert.deepEqual(await host.serve(served({ model: 'ee'.repeat(32) })), { status: 'notHeld', experts: [3] })
  assert.equal(experts.begun.length, 0)
})

test('rows of another width than the model are malformed', async () => {
  const { host } = setUp()
  assert.deepEqual(await host.serve(served({ width: 4, x: new Float32Array(4) })), { status: 'malformed' })
})

test('waiting calls run by urgency, then in the order they came, whoever sent them', async () => {
  const { host, experts } = setUp()
  const replies = [
    host.serve(served({ priority: 2 }, 1)),
    host.serve(served({ priority: 2 }, 2)),
    host.serve(served({ priority: 1, peer: 'other' }, 3)),
    host.serve(served({ priority: 0 }, 4)),
    host.serve(served({ priority: 1 }, 5)),
    host.compute(DIGEST, { ...callOf({}, 6), priority: 0 }),
  ]
  await settle()
  assert.deepEqual(marks(experts), [1], 'one job at a time')
  for (let i = 0; i < replies.length; i++) await experts.finish()
  await Promise.all(replies)
  assert.deepEqual(marks(experts), [1, 4, 6, 3, 5, 2])
})

test('as many jobs run at once as the engine has hands', async () => {
  const { host, experts } = setUp(2)
  const replies = [1, 2, 3].map((mark) => host.serve(served({}, mark)))
  await settle()
  assert.deepEqual(marks(experts), [1, 2])
  await experts.finish()
  assert.deepEqual(marks(experts), [1, 2, 3])
  await experts.finish()
  await experts.finish()
  await Promise.all(replies)
})

test('a call cancelled while it waits is not computed', async () => {
  const { host, experts } = setUp()
  let cancelled = false
  const first = host.serve(served({}, 1))
  const second = host.serve(served({ isCancelled: () => cancelled }, 2))
  await settle()
  cancelled = true
  await experts.finish()
  assert.deepEqual(await second, { status: 'cancelled' })
  assert.equal((await first).status, 'ok')
  assert.deepEqual(marks(experts), [1])
})

test('a call whose deadline passed while it waited is not computed', async () => {
  const { host, experts } = setUp()
  const first = host.serve(served({}, 1))
  const second = host.serve(served({ receivedAt: performance.now() - 1000, deadlineMs: 999 }, 2))
  await settle()
  await experts.finish()
  assert.deepEqual(await second, { status: 'deadline' })
  assert.equal((await first).status, 'ok')
  assert.deepEqual(marks(experts), [1])
})

test('a job that fails rejects alone; the queue goes on', async () => {
  const { host, experts } = setUp()
  const outcomes = Promise.allSettled([
    host.serve(served({}, 1)),
    host.serve(served({}, 2)),
    host.compute(DIGEST, { ...callOf({}, 3), priority: 0 }),
    host.serve(served({}, 4)),
  ])
  await settle()
  await experts.finish(new Error('out of memory'))
  await experts.finish()
  await experts.finish(new Error('again'))
  await experts.finish()
  assert.deepEqual(
    (await outcomes).map((outcome) => outcome.status),
    ['rejected', 'fulfilled', 'rejected', 'fulfilled'],
  )
  assert.deepEqual(host.counts, { served: 2, busy: 0, failed: 1, rows: 2 })
})

/** Answers of calls that got one without anything being computed. */
async function answeredAtOnce(replies: readonly Promise<ExpertReply>[]): Promise<ExpertReply[]> {
  const answers: ExpertReply[] = []
  for (const reply of replies) void reply.then((answer) => answers.push(answer))
  await settle()
  return answers
}

test('one peer can fill only its share of the waiting room, and is told to come back', async () => {
  const { host, experts } = setUp()
  const replies = Array.from({ length: 1 + 256 + 2 }, () => host.serve(served()))
  const refused = await answeredAtOnce(replies)
  assert.deepEqual(refused, [
    { status: 'busy', retryAfterMs: 1 },
    { status: 'busy', retryAfterMs: 1 },
  ])
  assert.equal(host.counts.busy, 2)
  const other = host.serve(served({ peer: 'other' }))
  for (let i = 0; i < 1 + 256 + 1; i++) await experts.finish()
  assert.equal((await other).status, 'ok')
  assert.equal((await Promise.all(replies)).filter((reply) => reply.status === 'ok').length, 257)
})

test('once its calls are done, a peer may fill its share again', async () => {
  const { host, experts } = setUp()
  const waiting = Array.from({ length: 1 + 256 }, () => host.serve(served()))
  await settle()
  await experts.finish()
  assert.deepEqual(await answeredAtOnce([host.serve(served())]), [])
  assert.equal((await answeredAtOnce([host.serve(served())])).length, 1)
  for (let i = 0; i < 257; i++) await experts.finish()
  await Promise.all(waiting)
})

test('rows fill the waiting room by their bytes, too', async () => {
  const { host } = setUp()
  const big = { x: new Float32Array((32 * 1024 * 1024) / 4) }
  const ofPeer = (peer: string, count: number) => Array.from({ length: count }, () => host.serve(served({ ...big, peer })))
  assert.deepEqual(await answeredAtOnce(ofPeer('a', 1 + 2)), [], 'one runs, two wait')
  assert.equal((await answeredAtOnce(ofPeer('a', 1))).length, 1, '64 MiB of one peer wait')
  assert.deepEqual(await answeredAtOnce(['b', 'c', 'd'].flatMap((peer) => ofPeer(peer, 2))), [])
  assert.equal((await answeredAtOnce([host.serve(served({ peer: 'e' }))])).length, 1, '256 MiB wait over all')
})

test('the whole room is bounded over many peers, but not for this node itself', async () => {
  const { host, experts } = setUp()
  const replies = Array.from({ length: 1 + 1024 + 1 }, (_, i) => host.serve(served({ peer: `peer ${i % 8}` })))
  assert.equal((await answeredAtOnce(replies)).length, 1)
  const own = host.compute(DIGEST, { ...callOf({}, 7), priority: 0 })
  for (let i = 0; i < 1026; i++) await experts.finish()
  assert.deepEqual([...(await own).outputs], [21, -21])
})

test('each served call is reported with its queue and compute time', async () => {
  const { host, experts } = setUp()
  const times: number[][] = []
  host.onServed = (queueUs, computeUs) => times.push([queueUs, computeUs])
  const reply = host.serve(served({ receivedAt: performance.now() - 50 }))
  await settle()
  await experts.finish()
  const ok = (await reply) as Extract<ExpertReply, { status: 'ok' }>
  assert.deepEqual(times, [[ok.queueUs, ok.computeUs]])
  assert.ok(ok.queueUs >= 50_000)
})

test('a model that is not hosted can not be computed', async () => {
  const { host } = setUp()
  await assert.rejects(host.compute('ee'.repeat(32), { ...callOf(), priority: 0 }), /not hosted here/)
})

test('a call begins in the turn in which it came in, unless somebody else called a moment ago', async () => {
  const { host, experts } = setUp()
  const begunAtOnce = async (peer: string, receivedAt: number): Promise<boolean> => {
    const before = experts.begun.length
    const reply = host.serve(served({ peer, receivedAt }))
    for (let i = 0; i < 5; i++) await Promise.resolve()
    const begun = experts.begun.length > before
    await settle()
    await experts.finish()
    assert.equal((await reply).status, 'ok')
    return begun
  }
  const now = performance.now()
  assert.equal(await begunAtOnce('ada', now), false, 'nobody knows yet who else calls')
  assert.equal(await begunAtOnce('ada', now + 1000), true)
  assert.equal(await begunAtOnce('bob', now + 1001), false)
  assert.equal(await begunAtOnce('bob', now + 1002), false)
  assert.equal(await begunAtOnce('bob', now + 2000), true)
})

test('of the calls that come in one turn, one begins in it, however many could', async () => {
  const { host, experts } = setUp(2)
  const call = (at: number): Promise<ExpertReply> => host.serve(served({ receivedAt: performance.now() + at }))
  const first = call(0)
  await settle()
  await experts.finish()
  await first
  const before = experts.begun.length
  const calls = [call(1000), call(1001)]
  for (let i = 0; i < 5; i++) await Promise.resolve()
  assert.equal(experts.begun.length, before + 1)
  await settle()
  assert.equal(experts.begun.length, before + 2)
  await experts.finish()
  await experts.finish()
  assert.deepEqual(
    (await Promise.all(calls)).map(({ status }) => status),
    ['ok', 'ok'],
  )
})
