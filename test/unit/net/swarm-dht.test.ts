import assert from 'node:assert/strict'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import type { PeerInfo } from '@libp2p/interface'
import { routingOf } from '../../../node/net/swarm-dht.ts'
import { startBarePeer } from '../../helpers/bare-peer.ts'

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
  assert.equal(typeof routingOf(dht).findProviders, 'function')
})
