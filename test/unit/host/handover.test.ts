import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { bitmapOf } from '../../../crdt/index.ts'
import type { AuthorView } from '../../../crdt/index.ts'
import { MergedView } from '../../../crdt/view.ts'
import { ExpertHost } from '../../../node/host/expert-host.ts'
import { Handover } from '../../../node/host/handover.ts'
import { Hosting } from '../../../node/host/hosting.ts'
import { shardsOf } from '../../../node/host/holdings-service.ts'
import { OtherHosts } from '../../../node/host/other-hosts.ts'
import { createBlobStore } from '../../../node/model/blob-store.ts'
import type { ShardEntry } from '../../../node/model/manifest.ts'
import { engineForTest, packForTest } from '../../helpers/packed-model.ts'
import { until } from '../../helpers/until.ts'

const NEVER = new AbortController().signal

/** A node that serves the first two shards of a model, and what it sees of others: what each holds, may fill, and is about to leave. */
async function setUp(t: TestContext, timeoutMs = 20_000) {
  const { model, dir } = await packForTest(t, 'random-qwen3moe')
  const events: string[] = []
  const log = (event: string): void => void events.push(event)
  const host = new ExpertHost({ concurrency: 1 })
  const hosting = new Hosting({ engine: engineForTest(t), host, store: createBlobStore({ dir }), fetch: async () => {}, log })
  t.after(() => hosting.stop())
  const held = await hosting.add(model)
  const [first, second] = shardsOf(held) as [ShardEntry, ShardEntry]
  await hosting.hold(held.id, first)
  await hosting.hold(held.id, second)
  const authors = new Map<string, AuthorView>()
  const gone = new Set<string>()
  const verified: string[] = []
  const others = new OtherHosts({
    self: 'self',
    view: () => new MergedView(authors),
    isGone: (peer) => gone.has(peer),
    verify: async (peers) => void verified.push(...peers),
  })
  const see = (peer: string, holds: readonly ShardEntry[], budgetBytes?: number, leaves: readonly ShardEntry[] = []): void => {
    const mapOf = (shards: readonly ShardEntry[]) => new Map(shards.length === 0 ? [] : [[held.id, layersOf(shards)]])
    const profile = { name: peer, version: '1', relayed: false, ...(budgetBytes === undefined ? {} : { budgetBytes }) }
    const rest = { routing: null, service: null, observed: null, updatedAt: 0, expiresAt: Infinity }
    authors.set(peer, { profile, holdings: mapOf(holds), leaving: mapOf(leaves), ...rest })
  }
  const states = (): (string | null)[] => [first, second].map(({ cid }) => hosting.stateOf(held.id, cid))
  return {
    hosting,
    handover: new Handover({ hosting, others, log }, { timeoutMs }),
    id: held.id,
    first,
    second,
    see,
    gone,
    verified,
    states,
    events,
  }
}

function layersOf(shards: readonly ShardEntry[]): Uint8Array[] {
  const layers: number[][] = []
  for (const { layer, first, last } of shards) for (let e = first; e <= last; e++) (layers[layer] ??= []).push(e)
  return Array.from(layers, (experts: number[] | undefined) => bitmapOf(experts ?? []))
}

test('a node whose shards nobody can take up leaves at once', async (t) => {
  const { handover, first, second, see, states, events } = await setUp(t)
  await handover.leave(NEVER)
  see('told what to hold', [])
  see('no room', [], first.bytes - 1)
  see('leaves, too', [], 1e9, [second])
  await handover.leave(NEVER)
  assert.deepEqual([states(), events.includes('handover.begun')], [['serving', 'serving'], false])
})

test('a node that leaves says so, waits until others serve all that it does, and serves it meanwhile', async (t) => {
  const { handover, first, second, see, verified, states, events } = await setUp(t)
  see('has one', [first], 1e9)
  const leaving = handover.leave(NEVER).then(() => events.push('left'))
  assert.deepEqual(states(), ['leaving', 'leaving'])
  see('has the other', [second])
  await leaving
  assert.deepEqual(
    [states(), events.slice(-2)],
    [
      ['leaving', 'leaving'],
      ['handover.ended', 'left'],
    ],
  )
  assert.deepEqual(verified.sort(), ['has one', 'has the other'], 'it makes sure that they live')
})

test('hosts that leave, or are gone, or whose room is what only they serve are not relied on', async (t) => {
  const { handover, first, second, see, gone, states, events } = await setUp(t)
  see('leaves, too', [first, second], undefined, [first, second])
  see('is gone', [first, second], 1e9)
  gone.add('is gone')
  assert.equal(handover.room(), 0)
  see('has room', [], first.bytes + second.bytes)
  assert.equal(handover.room(), first.bytes + second.bytes)
  const leaving = handover.leave(NEVER)
  see('has room', [first], first.bytes + second.bytes - 1)
  await until(() => events.includes('handover.ended'), { what: 'the end of the wait', timeoutMs: 5_000 })
  await leaving
  assert.equal(handover.room(), second.bytes - 1)
  assert.deepEqual(states(), ['leaving', 'leaving'])
})

test('a shard that was being given up when the node leaves does not stay', async (t) => {
  const { handover, id, first, second, see, states } = await setUp(t)
  see('has room', [second], 1e9)
  const stopping = new AbortController()
  const givingUp = handover.giveUp(id, first, { need: 1, signal: stopping.signal })
  stopping.abort(new Error('placement stops'))
  const leaving = handover.leave(NEVER)
  assert.equal(await givingUp, false)
  assert.deepEqual(states(), ['leaving', 'leaving'])
  see('has room', [first, second], 1e9)
  await leaving
})

test('the wait ends with its time, and with the signal', async (t) => {
  const { handover, see, events } = await setUp(t, 1_000)
  see('never takes anything', [], 1e9)
  await handover.leave(NEVER)
  await handover.leave(AbortSignal.abort())
  assert.equal(events.filter((event) => event === 'handover.ended').length, 2)
})

test('a shard is given up once enough others serve it, else it stays', async (t) => {
  const { hosting, handover, id, first, second, see, states } = await setUp(t)
  assert.equal(await handover.giveUp(id, first, { need: 1, signal: NEVER }), false, 'nobody can take it')
  see('one', [first])
  const givingUp = handover.giveUp(id, first, { need: 1, signal: NEVER })
  assert.deepEqual(states(), ['leaving', 'serving'])
  assert.equal(await givingUp, true)
  assert.deepEqual(states(), [null, 'serving'])
  see('two', [second])
  const both = handover.giveUp(id, second, { need: 1, signal: NEVER })
  see('two', [second], undefined, [second])
  assert.equal(await both, false, 'two hosts that rely on one another must not both go')
  assert.equal(hosting.stateOf(id, second.cid), 'serving')
})
