/** A peer that was reached through a far relay gets a direct link: calls prefer it at once. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import { linkKind } from '../../node/net/link-kind.ts'
import { Puncher } from '../../node/net/punch/puncher.ts'
import { NO_PRIOR } from '../../node/router/host-estimate.ts'
import { startNewcomer } from '../helpers/newcomer.ts'
import { startSlowLine } from '../helpers/slow-line.ts'
import { ask, createSwarm } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const PROMPT = { messages: [{ role: 'user', content: 'Tell me a fairy tale about a king.' }] }
/** Round trips of 1,300 ms from each side to the relay, and 200 ms to the other host; the punched link has next to none. */
const RELAY_ONE_WAY_MS = 650
const OTHER_ONE_WAY_MS = 100
/** From the direct link to calls that prefer it. */
const RERANKED_MS = 1_000

test('a host that goes from 2,600 ms over a relay to a direct link is preferred within a second', { timeout: 240_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const relay = await swarm.start({ host: 'none', relay: 'on' })
  const other = await swarm.start({ relay: 'off', host: 'all' })
  const far = [await startSlowLine(t, relay.addresses[0]!, 0), await startSlowLine(t, relay.addresses[0]!, 0)] as const
  const near = await swarm.start({ listen: [], relay: 'off', host: 'all', punchPort: 0, bootstrap: [far[1].address] })
  await until(() => near.status().relay.using.length === 1, { what: 'the reservation of the host' })
  const slow = await startSlowLine(t, other.addresses[0]!, OTHER_ONE_WAY_MS)
  const newcomer = await startNewcomer(t, swarm, [slow.address, far[0].address], [])
  const { mesh } = newcomer.bare
  const puncher = new Puncher({ mesh, parts: mesh.services.parts, port: 0, log: () => {} })
  const cost = (peer: string): number => newcomer.costs.cost(peer, false, NO_PRIOR).overheadUs / 1000

  const circuit = multiaddr(`${far[0].address}/p2p-circuit/p2p/${near.peer}`)
  const relayed = await mesh.dial(circuit, { signal: AbortSignal.timeout(60_000) })
  assert.equal(linkKind(relayed), 'relay')
  const { id, manifest } = swarm.model
  const shard = manifest.blobs.find((blob) => blob.role === 'experts')!
  const announced = async (): Promise<boolean> => (await newcomer.records.find(shard.cid, 2, AbortSignal.timeout(10_000))).length === 2
  await until(announced, { what: 'the records of both hosts', timeoutMs: 60_000, intervalMs: 500 })
  // The lines to the relay fill up, as lines do.
  for (const line of far) line.oneWayMs = RELAY_ONE_WAY_MS
  for (const { peer } of [near, other]) {
    for (const blob of manifest.blobs) {
      if (blob.role !== 'experts') continue
      const experts = Array.from({ length: blob.last - blob.first + 1 }, (_, i) => blob.first + i)
      newcomer.holders.hint(peer, id, blob.layer, experts)
    }
  }
  // Opens links to both, and measures them.
  await newcomer.keeper.discover(id, 0, 0, AbortSignal.timeout(60_000))
  await until(() => cost(near.peer) > 2_500 && cost(other.peer) < 1_000, { what: 'both hosts to be measured', timeoutMs: 60_000 })
  t.diagnostic(`relayed ${cost(near.peer).toFixed(0)} ms, the other host ${cost(other.peer).toFixed(0)} ms`)
  const before = await ask(newcomer, PROMPT, { maxTokens: 2 })
  assert.deepEqual(
    before.report.hosts.map(({ peer }) => peer),
    [other.peer],
  )

  // As a node does.
  mesh.addEventListener('connection:open', ({ detail }) => void newcomer.keeper.connected(detail.remotePeer.toString()))
  const direct = Promise.withResolvers<number>()
  mesh.addEventListener('connection:open', ({ detail }) => linkKind(detail) !== 'relay' && direct.resolve(performance.now()))
  // The host has tried it all the time; now there is somebody who answers.
  await puncher.start()
  t.after(() => puncher.stop())
  const punching = puncher.punch(relayed, AbortSignal.timeout(60_000))
  const openedAt = await direct.promise
  await until(() => cost(near.peer) < cost(other.peer), { what: 'the direct link to be preferred', timeoutMs: RERANKED_MS, intervalMs: 5 })
  t.diagnostic(`preferred ${Math.round(performance.now() - openedAt)} ms after the direct link opened, at ${cost(near.peer).toFixed(1)} ms`)
  await punching
  const after = await ask(newcomer, PROMPT, { maxTokens: 2 })
  assert.ok(after.report.hosts.some(({ peer }) => peer === near.peer))
  assert.deepEqual(after.tokens, before.tokens)
})
