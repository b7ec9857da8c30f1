/** Peers that nobody can dial, reached through relays. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
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
