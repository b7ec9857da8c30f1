/** Nodes that decide by themselves what to host. */
import assert from 'node:assert/strict'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'node:test'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { packCheckpoint } from '../../node/model/pack.ts'
import type { SkeinNode } from '../../node/node.ts'
import { ask, createSwarm } from '../helpers/swarm.ts'
import { until } from '../helpers/until.ts'

const NAME = 'ember-q8'
const CHECKPOINT = fileURLToPath(new URL('../../node/model/ember/', import.meta.url))
const PROMPT = { messages: [{ role: 'user', content: 'Tell me a story about a dog.' }] }

test('nodes with a budget and no model learn of it, fetch what is rare, and replace a host that goes', { timeout: 90_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const store = createBlobStore({ dir: swarm.storeDir })
  const packed = await packCheckpoint({ dir: CHECKPOINT, store, quant: 'q8', name: NAME })
  const shards = packed.manifest.blobs.filter((blob) => blob.role === 'experts')
  const total = shards.reduce((sum, { bytes }) => sum + bytes, 0)
  const gateway = await swarm.start({ model: [NAME], host: 'none' })
  const first = await swarm.start({ model: [NAME], host: 'all' })
  const start = (name: string): Promise<SkeinNode> => {
    const data = join(swarm.dir, name)
    return swarm.start({ model: ['none'], host: 'auto', ram: Math.ceil(total * 0.8), disk: total, data, store: join(data, 'blobs') })
  }
  const replicas = (count: number): Promise<unknown> =>
    until(() => gateway.status().models[0]!.coverage.minReplicas >= count, { what: `every expert on ${count} hosts`, timeoutMs: 45_000 })

  const autos = [await start('one'), await start('two')]
  await replicas(2)
  for (const node of autos) {
    const experts = gateway.status().peers.find(({ peer }) => peer === node.peer)!.experts
    assert.ok(experts > 0 && experts <= 96 * 0.8 + 4, `${experts} experts fit the budget`)
  }
  const expected = await ask(gateway, PROMPT, { model: NAME, wire: 'f32', combine: 'driver' })

  autos.push(await start('three'))
  await first.stop()
  await replicas(2)
  const after = await ask(gateway, PROMPT, { model: NAME, wire: 'f32', combine: 'driver' })
  assert.deepEqual(after.tokens, expected.tokens)
  assert.ok(after.report.hosts.every(({ peer }) => autos.some((node) => node.peer === peer)))
})
