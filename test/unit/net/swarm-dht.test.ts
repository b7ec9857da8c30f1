import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { contentRoutingSymbol } from '@libp2p/interface'
import type { PeerId, PeerInfo } from '@libp2p/interface'
import type { QueryEvent } from '@libp2p/kad-dht'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'
import type { DhtTable } from '../../../node/net/routing-table-keeper.ts'
import { routingOf } from '../../../node/net/swarm-dht.ts'
import type { SwarmDht } from '../../../node/net/swarm-dht.ts'
import { startBarePeer } from '../../helpers/bare-peer.ts'
import { until } from '../../helpers/until.ts'

const cid = CID.createV1(raw.code, await sha256.digest(Buffer.from('shard')))

test('a peer that the DHT names again with the same addresses is no news, with others it is', { timeout: 20_000 }, async (t) => {
  const { mesh } = await startBarePeer(t, { swarm: 'dht-news', connectTo: [] })
  const other = await startBarePeer(t, { swarm: 'dht-news', connectTo: [] })
  const { dht } = mesh.services
  const told: string[] = []
  const listener = dht as unknown as EventTarget
  listener.addEventListener('peer', (event) => told.push(String((event as CustomEvent<PeerInfo>).detail.multiaddrs)))
  const name = (...addresses: string[]): void => {
    const detail: PeerInfo = { id: other.mesh.peerId, multiaddrs: addresses.map((address) => multiaddr(address)) }
    listener.dispatchEvent(new CustomEvent('peer', { detail }))
  }
  name('/ip4/192.0.2.1/tcp/1', '/ip4/192.0.2.2/tcp/1')
  name('/ip4/192.0.2.2/tcp/1', '/ip4/192.0.2.1/tcp/1')
  assert.equal(told.length, 1)
  name('/ip4/192.0.2.3/tcp/1')
  assert.equal(told.length, 2)
})

test(
  'a peer that is only named is not connected to, one that is connected comes into the routing table',
  { timeout: 20_000 },
  async (t) => {
    const [asker, named, connected] = await Promise.all(
      Array.from({ length: 3 }, () => startBarePeer(t, { swarm: 'dht-table', connectTo: [] })),
    )
    const { mesh } = asker!
    const dht = mesh.services.dht as SwarmDht & DhtTable & { network: EventTarget }
    const infoOf = (peer: typeof named): PeerInfo => ({ id: peer!.mesh.peerId, multiaddrs: peer!.mesh.getMultiaddrs() })
    dht.network.dispatchEvent(new CustomEvent('peer', { detail: infoOf(named) }))
    await mesh.dial(infoOf(connected).multiaddrs, { signal: AbortSignal.timeout(10_000) })
    await until(async () => (await dht.routingTable.find(infoOf(connected).id)) !== undefined, {
      what: 'the connected peer is in the table',
    })
    assert.equal(await dht.routingTable.find(infoOf(named).id), undefined)
    assert.deepEqual(mesh.getPeers().map(String), [connected!.peer])
    assert.deepEqual(mesh.getDialQueue(), [])
  },
)

const peers = await Promise.all(Array.from({ length: 30 }, async () => peerIdFromPrivateKey(await generateKeyPair('Ed25519'))))

/** A DHT in which the peers answer a look-up in turn, each with the providers that it knows. */
function dhtOf(answers: readonly (readonly PeerId[])[]): { dht: SwarmDht; asked: () => number } {
  let asked = 0
  async function* findProviders(): AsyncGenerator<QueryEvent> {
    for (const [i, known] of answers.entries()) {
      asked++
      const providers = known.map((id) => ({ id, multiaddrs: [] }))
      yield { name: 'PEER_RESPONSE', from: peers[29 - i]!, providers } as unknown as QueryEvent
    }
  }
  const routing = { provide: async () => {}, cancelReprovide: async () => {} }
  return { dht: { findProviders, [contentRoutingSymbol]: routing } as unknown as SwarmDht, asked: () => asked }
}

async function find(dht: SwarmDht): Promise<string[]> {
  return (await Array.fromAsync(routingOf(dht).findProviders(cid))).map(({ id }) => id.toString())
}

test('a look-up ends when four peers in a row have named nobody new, and not before', async () => {
  const [a, b, c] = peers as [PeerId, PeerId, PeerId]
  const { dht, asked } = dhtOf([[], [a], [a], [a], [], [a], [a, b], [b], [c, a], [c], [b], [a, b, c], [], [a], [a], [a]])
  assert.deepEqual(await find(dht), [a, b, c].map(String))
  assert.equal(asked(), 14)
})

test('providers that one peer alone names do not end a look-up, and come last', async () => {
  const [a, b, c] = peers as [PeerId, PeerId, PeerId]
  const invented = peers.slice(3, 11)
  const { dht } = dhtOf([[...invented, ...invented], [a], [b], [a, c], [a, b], [a], [b], [a]])
  assert.deepEqual(await find(dht), [a, b, ...invented, c].map(String))
})

test('a look-up that is cut short names those of one peer too', async () => {
  const { dht } = dhtOf([[peers[0]!]])
  const cut = async function* (): AsyncGenerator<QueryEvent> {
    yield* dht.findProviders(cid)
    throw new Error('time is up')
  }
  const found: string[] = []
  const search = async (): Promise<void> => {
    for await (const { id } of routingOf({ ...dht, findProviders: cut }).findProviders(cid)) found.push(id.toString())
  }
  await assert.rejects(search(), /time is up/)
  assert.deepEqual(found, [peers[0]!.toString()])
})

test('of a peer that names dozens of providers only a few are heard', { timeout: 20_000 }, async (t) => {
  const asker = await startBarePeer(t, { swarm: 'dht-liar', connectTo: [] })
  const liar = await startBarePeer(t, { swarm: 'dht-liar', connectTo: [asker.mesh.getMultiaddrs()[0]!.toString()] })
  const { providers } = liar.mesh.services.dht as unknown as { providers: { getProviders(): Promise<PeerId[]> } }
  providers.getProviders = async () => peers
  for (const id of peers) await liar.mesh.peerStore.patch(id, { multiaddrs: [multiaddr('/ip4/127.0.0.1/tcp/9')] })
  const { dht } = asker.mesh.services
  await until(async () => (await (dht as SwarmDht & DhtTable).routingTable.find(liar.mesh.peerId)) !== undefined, {
    what: 'the liar is in the table',
  })
  const found = await find(dht)
  assert.equal(found.length, 8)
  assert.equal(new Set(found).size, 8)
})

test('where nobody keeps records, or few do, all peers are asked', async () => {
  const few = dhtOf([...Array.from({ length: 10 }, () => []), [peers[0]!], [peers[0]!]])
  assert.deepEqual(await find(few.dht), [peers[0]!.toString()])
  const none = dhtOf(Array.from({ length: 20 }, () => []))
  assert.deepEqual(await find(none.dht), [])
  assert.equal(none.asked(), 20)
})
