/** Experts taken up and given up while nodes run and answer. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'node:test'
import { readEventStream } from '../../node/cli/event-stream.ts'
import type { HoldingEvent } from '../../node/host/holdings-service.ts'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { packCheckpoint } from '../../node/model/pack.ts'
import type { SkeinNode } from '../../node/node.ts'
import { createSwarm } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const NAME = 'ember-q8'
const CHECKPOINT = fileURLToPath(new URL('../../node/model/ember/', import.meta.url))

interface Reply {
  readonly status: number
  readonly code: string | null
  readonly events: readonly HoldingEvent[]
}

async function post(node: SkeinNode, path: '/api/hold' | '/api/release', body: object): Promise<Reply> {
  const response = await fetch(`${node.url}${path}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  if (!response.ok) {
    const { error } = (await response.json()) as { error: { code: string } }
    return { status: response.status, code: error.code, events: [] }
  }
  const events: HoldingEvent[] = []
  for await (const data of readEventStream(response)) if (data !== '[DONE]') events.push(JSON.parse(data) as HoldingEvent)
  return { status: response.status, code: null, events }
}

async function tokensOf(node: SkeinNode): Promise<{ tokens: number[]; hosts: string[] }> {
  const tokens: number[] = []
  let hosts: string[] = []
  const fields = { maxTokens: 8, sampling: { temperature: 0 }, stop: [], logprobs: null, wire: 'f32', combine: 'driver' } as const
  for await (const event of node.queries.answer({ model: NAME, input: { kind: 'tokens', ids: [1, 2, 3, 4, 5] }, ...fields })) {
    if (event.kind === 'text') tokens.push(...event.tokens)
    if (event.kind === 'end') hosts = event.report.hosts.map(({ peer }) => peer)
  }
  return { tokens, hosts }
}

const heldBy = (node: SkeinNode): number => node.status().holdings.find(({ model }) => model === NAME)?.layers.length ?? 0

test('a node that has nothing takes a model over from its only host, and no answer fails', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const packed = await packCheckpoint({
    dir: CHECKPOINT,
    store: createBlobStore({ dir: swarm.storeDir }),
    quant: 'q8',
    name: NAME,
  })
  const { layers } = packed.manifest.config
  const first = await swarm.start({ model: [NAME], host: 'all' })
  const data = join(swarm.dir, 'second')
  const own = { model: ['none'], host: 'none', data, store: join(data, 'blobs') }
  let second = await swarm.start(own)
  await until(() => second.status().peers.some(({ experts }) => experts > 0), { what: 'the second node knows the first' })
  const expected = await tokensOf(first)
  assert.deepEqual(expected.hosts, [first.peer])

  assert.deepEqual(
    [
      (await post(first, '/api/release', { model: NAME, what: 'all' })).code,
      (await post(second, '/api/hold', { model: 'nobody', what: 'all' })).code,
    ],
    ['last_holder', 'model_not_found'],
  )
  assert.deepEqual(
    await Promise.all(
      [{ model: NAME }, { model: NAME, what: 'some' }, { model: NAME, what: '99:0' }, { model: NAME, what: 'all', pin: 1 }].map(
        async (body) => (await post(second, '/api/hold', body)).status,
      ),
    ),
    [400, 400, 400, 400],
  )

  let isOver = false
  const asking = (async () => {
    let answers = 0
    for (; !isOver; answers++) assert.deepEqual((await tokensOf(first)).tokens, expected.tokens)
    return answers
  })()
  const held = await post(second, '/api/hold', { model: NAME, what: 'all', pin: true })
  const shards = packed.manifest.blobs.filter((blob) => blob.role === 'experts')
  assert.deepEqual(held.events.at(-1), { kind: 'end', done: shards.length, failed: 0 })
  assert.equal(held.events.filter((event) => event.kind === 'shard' && event.state === 'serving').length, shards.length)
  await until(() => first.status().models[0]!.coverage.minReplicas === 2, { what: 'the first node can call the second' })
  const released = await post(first, '/api/release', { model: packed.id, what: 'all' })
  assert.deepEqual(released.events.at(-1), { kind: 'end', done: shards.length, failed: 0 })
  isOver = true
  assert.ok((await asking) > 0)
  assert.deepEqual([heldBy(first), heldBy(second)], [0, layers])
  const after = await tokensOf(first)
  assert.deepEqual(after, { tokens: expected.tokens, hosts: [second.peer] })

  await second.stop()
  const remembered = JSON.parse(await readFile(join(data, 'holdings.json'), 'utf8')) as Record<string, { pinned: string[] }>
  assert.equal(remembered[packed.id]!.pinned.length, shards.length)
  second = await swarm.start(own)
  assert.equal(heldBy(second), layers, 'what was pinned is held again')
  await until(() => first.status().models[0]!.coverage.minReplicas === 1, { what: 'the first node can call it again' })
  assert.deepEqual((await tokensOf(first)).tokens, expected.tokens)
})
