import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { PeerId } from '@libp2p/interface'
import { RoutingTableKeeper } from '../../../node/net/routing-table-keeper.ts'
import type { RoutingTableKeeperComponents } from '../../../node/net/routing-table-keeper.ts'

const DHT = '/kad'

/** A table that takes whom it is given if he answers, and connections to some peers. */
function keeperOf(connected: readonly string[], protocols: (peer: string) => string[], answers: (peer: string) => boolean) {
  const table = new Set<string>()
  const asked: string[] = []
  const components = {
    mesh: {
      getConnections: () => connected.map((peer) => ({ remotePeer: peer })),
      peerStore: { get: async (peer: string) => ({ protocols: protocols(peer) }) },
    },
    dht: {
      protocol: DHT,
      routingTable: {
        get size() {
          return table.size
        },
        find: async (peer: PeerId) => (table.has(String(peer)) ? peer : undefined),
        add: async (peer: PeerId) => {
          asked.push(String(peer))
          if (!answers(String(peer))) throw new Error('no answer')
          table.add(String(peer))
        },
      },
    },
  }
  return { keeper: new RoutingTableKeeper(components as unknown as RoutingTableKeeperComponents), table, asked }
}

test('connected peers that the table lacks are asked again, until it has them', async () => {
  let isBusy = true
  const { keeper, table, asked } = keeperOf(
    ['ada', 'bob', 'ada'],
    () => [DHT],
    (peer) => peer === 'bob' || !isBusy,
  )
  await keeper.mend()
  assert.deepEqual([[...table], asked], [['bob'], ['ada', 'bob']])
  isBusy = false
  await keeper.mend()
  assert.deepEqual(
    [[...table], asked],
    [
      ['bob', 'ada'],
      ['ada', 'bob', 'ada'],
    ],
  )
  await keeper.mend()
  assert.equal(asked.length, 3, 'nobody is missing')
})

test('peers that do not speak the DHT are left alone, and so are all once the table has enough', async () => {
  const strangers = keeperOf(
    ['ada', 'bob'],
    (peer) => (peer === 'ada' ? ['/other'] : []),
    () => true,
  )
  await strangers.keeper.mend()
  assert.deepEqual(strangers.asked, [])
  const many = Array.from({ length: 60 }, (_, i) => `peer-${i}`)
  const { keeper, table } = keeperOf(
    many,
    () => [DHT],
    () => true,
  )
  for (let i = 0; i < 15; i++) await keeper.mend()
  assert.equal(table.size, 20)
})
