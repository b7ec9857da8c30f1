/** How nodes learn of each other: provider records in the DHT, holdings and counts in the ledger. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { PeerId } from '@libp2p/interface'
import { RoutingTableKeeper } from '../../node/net/routing-table-keeper.ts'
import type { DhtTable } from '../../node/net/routing-table-keeper.ts'
import type { SkeinNode } from '../../node/node.ts'
import { startBarePeer } from '../helpers/bare-peer.ts'
import { startNewcomer } from '../helpers/newcomer.ts'
import { ask, createSwarm, shareOf, untilReady } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const PROMPT = { messages: [{ role: 'user', content: 'Tell me a fairy tale about a king.' }] }
const FIELDS = Object.freeze({ wire: 'f32', combine: 'driver', maxTokens: 10, logprobs: 3 } as const)
/** Statistics travel every 5 s. */
const STATISTICS_TIMEOUT_MS = 20_000

test('a newcomer whose ledger is empty finds its hosts in the DHT', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const gateway = await swarm.start({ host: 'none' })
  const hosts = await Promise.all([0, 1].map((part) => swarm.start({ host: shareOf(swarm.model, part, 2) })))
  await untilReady(gateway, 2)
  const expected = await ask(gateway, PROMPT, FIELDS)

  const newcomer = await startNewcomer(t, swarm, gateway.addresses)
  assert.equal(newcomer.links.size, 0)
  // Hosts announce one shard after the other.
  const shards = swarm.model.manifest.blobs.filter((blob) => blob.role === 'experts')
  for (const { cid } of shards) {
    const find = (): Promise<unknown[]> => newcomer.records.find(cid, 1, AbortSignal.timeout(5_000))
    await until(async () => (await find()).length === 1, { what: `a provider record of ${cid}`, timeoutMs: 30_000 })
  }
  const answer = await ask(newcomer, PROMPT, FIELDS)
  assert.deepEqual(answer.tokens, expected.tokens)
  assert.deepEqual(answer.logprobs, expected.logprobs)
  assert.deepEqual(new Set(answer.report.hosts.map(({ peer }) => peer)), new Set(hosts.map(({ peer }) => peer)))
  assert.ok(newcomer.found.length > 0 && newcomer.found.every((providers) => providers === 1))
  t.diagnostic(`${newcomer.found.length} look-ups in the DHT`)
})

test('every node sees what every other holds, and a goodbye is believed at once', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const first = await swarm.start({ host: 'none', name: 'first' })
  const hosts = await Promise.all([0, 1, 2].map((part) => swarm.start({ host: shareOf(swarm.model, part, 3, 2), name: `host ${part}` })))
  const nodes = [first, ...hosts]
  const held = new Map(nodes.map((node) => [node.peer, heldBy(node)]))
  assert.equal(
    [...held.values()].reduce((sum, count) => sum + count, 0),
    2 * 96,
  )
  await until(() => nodes.every((node) => nodes.every((other) => other === node || announced(node, other.peer) === held.get(other.peer))), {
    what: 'all holdings on all nodes',
  })
  assert.deepEqual(new Set(first.status().peers.map(({ name }) => name)), new Set(['host 0', 'host 1', 'host 2']))

  await untilReady(first, 3, 2)
  const gone = hosts.pop()!
  await gone.stop()
  const rest = [first, ...hosts]
  // A record that is not taken back lives for half a minute.
  await until(() => rest.every((node) => announced(node, gone.peer) === 0), { what: 'the goodbye on all nodes', timeoutMs: 3_000 })
  assert.equal(first.status().models[0]!.coverage.minReplicas, 1)
  assert.equal(first.status().ready, true)
})

test('routing counts of two drivers add up, also after a restart', { timeout: 90_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const host = await swarm.start({ host: 'all' })
  const data = `${swarm.dir}/driver`
  const [one, two] = [await swarm.start({ host: 'none', data }), await swarm.start({ host: 'none' })]
  await Promise.all([untilReady(one, 1), untilReady(two, 1)])
  const rowsOf = async (node: SkeinNode, maxTokens: number): Promise<number> => {
    let promptTokens = 0
    let completionTokens = 0
    const request = { model: 'ember', input: { kind: 'text', text: 'Once upon a time' }, sampling: { temperature: 0 }, stop: [] } as const
    for await (const event of node.queries.answer({ ...request, maxTokens, logprobs: null })) {
      if (event.kind === 'start') promptTokens = event.promptTokens
      if (event.kind === 'end') completionTokens = event.completionTokens
    }
    // The last token is not fed back.
    return promptTokens + completionTokens - 1
  }
  const first = await rowsOf(one, 9)
  const sum = first + (await rowsOf(two, 5))
  assert.ok(first > 0 && sum > first)
  const untilCounted = (nodes: readonly SkeinNode[], tokens: number): Promise<unknown> =>
    until(() => nodes.every((node) => node.status().routing[0]!.tokens === tokens), {
      what: `all nodes count ${tokens} tokens, not ${nodes.map((node) => node.status().routing[0]!.tokens).join(', ')}`,
      timeoutMs: STATISTICS_TIMEOUT_MS,
    })
  await untilCounted([host, one, two], sum)

  await one.stop()
  const again = await swarm.start({ host: 'none', data })
  assert.equal(again.peer, one.peer)
  await untilReady(again, 1)
  const more = await rowsOf(again, 3)
  await untilCounted([host, two, again], sum + more)
})

/** Experts that the node says to host. */
function heldBy(node: SkeinNode): number {
  const ranges = node.status().holdings.flatMap(({ layers }) => layers.flatMap(({ experts }) => experts.split(',')))
  return ranges.reduce((sum, range) => {
    const [first, last = first] = range.split('-').map(Number)
    return sum + last! - first! + 1
  }, 0)
}

/** Experts that `node` sees announced by `peer`. */
function announced(node: SkeinNode, peer: string): number {
  return node.status().peers.find((entry) => entry.peer === peer)?.experts ?? 0
}

test(
  'a peer that the routing table has lost comes back into it, and others find its address there again',
  { timeout: 60_000 },
  async (t) => {
    const swarm = 'routing-table'
    const known = await startBarePeer(t, { swarm, connectTo: [] })
    const addresses = known.mesh.getMultiaddrs().map(String)
    const lost = await startBarePeer(t, { swarm, connectTo: addresses })
    const newcomer = await startBarePeer(t, { swarm, connectTo: addresses })
    const table = known.mesh.services.dht as unknown as DhtTable & {
      readonly routingTable: { remove(peer: PeerId): Promise<void> }
    }
    const isListed = async (): Promise<boolean> => (await table.routingTable.find(lost.mesh.peerId)) !== undefined
    await until(isListed, { what: 'the peer is in the table' })
    await table.routingTable.remove(lost.mesh.peerId)
    assert.equal(await isListed(), false)
    await new RoutingTableKeeper({ mesh: known.mesh, dht: table }).mend()
    assert.equal(await isListed(), true)
    const dial = (): Promise<unknown> => newcomer.mesh.dial(lost.mesh.peerId, { signal: AbortSignal.timeout(5_000) }).catch(() => null)
    await until(async () => (await dial()) !== null, { what: 'a connection to a peer of which only the id was known' })
  },
)
