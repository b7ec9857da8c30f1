import assert from 'node:assert/strict'
import { test } from 'node:test'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'
import { ProviderRecords } from '../../../node/net/provider-records.ts'
import type { SwarmRouting } from '../../../node/net/swarm-dht.ts'
import { until } from '../../helpers/until.ts'

const [first, second] = (await Promise.all(
  ['first', 'second'].map(async (name) => CID.createV1(raw.code, await sha256.digest(Buffer.from(name))).toString()),
)) as [string, string]

/** Records over a DHT that notes what it is told. */
function recordsOf(init: { fails?: () => boolean } = {}) {
  const world = { peers: 0, nowMs: 0, provided: [] as string[], cancelled: [] as string[] }
  const routing = {
    provide: async (cid: CID) => {
      if (init.fails?.() === true) throw new Error('nobody answered')
      world.provided.push(cid.toString())
    },
    cancelReprovide: async (cid: CID) => void world.cancelled.push(cid.toString()),
  } as unknown as SwarmRouting
  const records = new ProviderRecords({ routing, peers: () => world.peers, log: () => {}, now: () => world.nowMs })
  return { records, world }
}

test('what is held is announced when the first peer appears, and again each time that peers have doubled', async () => {
  const { records, world } = recordsOf()
  records.announce('model', [first])
  await records.tick()
  assert.deepEqual(world.provided, [])
  for (const [peers, announcements] of [
    [1, 1],
    [1, 1],
    [2, 2],
    [3, 2],
    [4, 3],
    [2, 3],
    [8, 4],
  ] as const) {
    world.peers = peers
    await records.tick()
    assert.equal(world.provided.length, announcements, `with ${peers} peers`)
  }
})

test('a record is announced again well before it runs out after an hour', async () => {
  const { records, world } = recordsOf()
  world.peers = 3
  records.announce('model', [first, second])
  for (let minute = 0; minute < 55; minute++) {
    world.nowMs = minute * 60_000
    await records.tick()
  }
  assert.ok(world.provided.filter((cid) => cid === first).length >= 2)
  assert.equal(world.provided.filter((cid) => cid === first).length, world.provided.filter((cid) => cid === second).length)
})

test('what is not held any more is not announced any more, unless another subject wants it', async () => {
  const { records, world } = recordsOf()
  world.peers = 1
  records.announce('model', [first, second])
  records.announce('other model', [second])
  await until(() => world.provided.length === 2, { what: 'both announced' })
  records.announce('model', [])
  await until(() => world.cancelled.length === 1, { what: 'one withdrawn' })
  world.peers = 2
  await records.tick()
  assert.deepEqual(world.cancelled, [first])
  assert.deepEqual(world.provided.slice(2), [second])
})

test('an announcement that failed is tried again, but not at once', async () => {
  let isDown = true
  const { records, world } = recordsOf({ fails: () => isDown })
  world.peers = 1
  records.announce('model', [first])
  await records.tick()
  isDown = false
  await records.tick()
  assert.equal(world.provided.length, 0)
  world.nowMs = 15_000
  await records.tick()
  assert.deepEqual(world.provided, [first])
})
