/** Peers that nobody can dial, reached through relays. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import { startBarePeer } from '../helpers/bare-peer.ts'
import { startSlowLine } from '../helpers/slow-line.ts'
import { ask, createSwarm, untilReady } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const PROMPT = { messages: [{ role: 'user', content: 'Tell me a fairy tale about a king.' }] }
/** A node that listens nowhere is as unreachable as one behind a NAT. */
const UNREACHABLE = Object.freeze({ listen: [] as string[], relay: 'off', punch: false })

test('two peers that nobody can dial answer a query through a relay', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const relay = await swarm.start({ host: 'none', relay: 'on' })
  const host = await swarm.start({ ...UNREACHABLE, host: 'all' })
  const gateway = await swarm.start({ ...UNREACHABLE, host: 'none' })
  await untilReady(gateway, 1)
  const answer = await ask(gateway, PROMPT)
  assert.equal(answer.report.exact, true)
  assert.deepEqual(
    answer.report.hosts.map(({ peer }) => peer),
    [host.peer],
  )
  const seen = gateway.status().peers.find(({ peer }) => peer === host.peer)!
  assert.match(seen.address!, new RegExp(`/p2p/${relay.peer}/p2p-circuit`))
  const { serving } = relay.status().relay
  assert.ok(serving.reservations === 2 && serving.circuits >= 1 && serving.bytes > answer.report.bytes.sent, JSON.stringify(serving))
})

test('a node keeps reservations with three relays and replaces one that goes', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const relays = []
  for (let i = 0; i < 4; i++) relays.push(await swarm.start({ host: 'none', relay: 'on' }))
  const node = await swarm.start({ ...UNREACHABLE, host: 'none' })
  await until(() => node.status().relay.using.length === 3, { what: 'three reservations' })
  const gone = relays.find(({ peer }) => node.status().relay.using.includes(peer))!
  await gone.stop()
  await until(() => node.status().relay.using.length === 3 && !node.status().relay.using.includes(gone.peer), {
    what: 'a replacement',
    timeoutMs: 10_000,
  })
})

test('an answer goes on when the relay in use is lost and another leads to the host', { timeout: 120_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const relays = [await swarm.start({ host: 'none', relay: 'on' }), await swarm.start({ host: 'none', relay: 'on' })]
  const host = await swarm.start({ ...UNREACHABLE, host: 'all' })
  const gateway = await swarm.start({ ...UNREACHABLE, host: 'none' })
  await until(() => [host, gateway].every((node) => node.status().relay.using.length === 2), { what: 'two reservations each' })
  await untilReady(gateway, 1)
  const fields = { maxTokens: 60 }
  const expected = await ask(gateway, PROMPT, fields)
  const address = gateway.status().peers.find(({ peer }) => peer === host.peer)!.address!
  const used = relays.find(({ peer }) => address.includes(`${peer}/p2p-circuit`))!
  const losing: Promise<void>[] = []
  const answer = await ask(gateway, PROMPT, fields, (tokens) => {
    if (tokens >= 10 && losing.length === 0) losing.push(used.stop())
  })
  assert.equal(losing.length, 1)
  await Promise.all(losing)
  assert.deepEqual(answer.tokens, expected.tokens)
  const after = gateway.status().peers.find(({ peer }) => peer === host.peer)!.address!
  assert.ok(after.includes('/p2p-circuit') && !after.includes(`${used.peer}/p2p-circuit`), after)
})

test('a relay that falls silent without a word is left for another', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const relay = await swarm.start({ host: 'none', relay: 'on' })
  const line = await startSlowLine(t, relay.addresses[0]!, 0)
  const node = await swarm.start({ ...UNREACHABLE, host: 'none', bootstrap: [line.address] })
  await until(() => node.status().relay.using.includes(relay.peer), { what: 'the first reservation' })
  const other = await swarm.start({ host: 'none', relay: 'on', bootstrap: relay.addresses })
  await until(() => node.status().relay.using.length === 2, { what: 'the second reservation' })
  line.isSilent = true
  await until(() => node.status().relay.using.join() === other.peer, { what: 'the silent relay is left', timeoutMs: 25_000 })
})

test('a peer is not taken for another whose addresses it claims', { timeout: 30_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const [honest, claimed] = [await swarm.start({ host: 'none' }), await swarm.start({ host: 'none' })]
  const { mesh } = await startBarePeer(t, { swarm: swarm.name, connectTo: [] })
  // What a liar's identify record would put into the peer store: the address of somebody else under its own id.
  const address = multiaddr(claimed.addresses[0]).decapsulate('/p2p')
  await assert.rejects(mesh.dial(multiaddr(`${address.toString()}/p2p/${honest.peer}`), { signal: AbortSignal.timeout(5_000) }), /peer/i)
  assert.equal(mesh.getConnections().length, 0)
})
