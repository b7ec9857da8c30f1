/** A machine is carried out of its home network, and back: its node finds out by itself how it can be reached now. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { Lab } from '../../scripts/natlab/lab.ts'
import { LabNode } from '../../scripts/natlab/lab-node.ts'
import { missingRequirement } from '../../scripts/natlab/requirements.ts'

/** AutoNAT asks four peers or more, one after the other, and looks once a minute. */
const DECIDED_MS = 120_000
const missing = await missingRequirement()

test('a node notices that its router is gone, and that one is there again', { skip: missing ?? false, timeout: 400_000 }, async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'skein-natlab-'))
  const lab = await Lab.create({ a: { nat: 'port' }, b: { nat: 'open' }, publics: 2, delayMs: 5 })
  const nodes: LabNode[] = []
  t.after(async () => {
    await Promise.all(nodes.map((node) => node.stop()))
    await lab.close()
    await rm(dir, { recursive: true, force: true, maxRetries: 5 })
  })
  const bootstrap: string[] = []
  for (const host of ['p1', 'p2', 'b', 'a'] as const) {
    const common = ['--swarm', 'natlab', '--data', join(dir, host), '--name', host, '--no-mdns', '--model', 'none', '--host', 'none']
    const net = bootstrap.flatMap((address) => ['--bootstrap', address])
    const node = await LabNode.start(lab, host, [...common, ...net, '--threads', '1', '--api-port', '0'])
    nodes.push(node)
    if (host !== 'a' && host !== 'b') bootstrap.push(`/ip4/52.0.0.${host.slice(1)}/tcp/4115/p2p/${node.daemon.peer}`)
  }
  const a = nodes.at(-1)!
  await a.until(({ relay }) => relay.reach === 'private' && relay.using.length > 0, 'a reservation behind the router', DECIDED_MS)

  await lab.move('a', 'away')
  let startedAt = performance.now()
  const away = await a.until(({ relay, peers }) => relay.reach === 'public' && peers.length > 0, 'being public', DECIDED_MS)
  t.diagnostic(`public ${Math.round(performance.now() - startedAt)} ms after the router was gone`)
  assert.ok(away.addresses.some((address) => address.startsWith('/ip4/52.0.0.21/tcp/4115')))

  await lab.move('a', 'home')
  startedAt = performance.now()
  const home = await a.until(({ relay }) => relay.reach === 'private' && relay.using.length > 0, 'a reservation again', DECIDED_MS)
  t.diagnostic(`private, with a reservation, ${Math.round(performance.now() - startedAt)} ms after the router was there again`)
  assert.ok(!home.addresses.some((address) => address.startsWith('/ip4/52.0.0.21')))
})
