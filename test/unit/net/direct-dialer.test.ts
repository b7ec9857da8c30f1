import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Connection } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { DirectDialer } from '../../../node/net/direct-dialer.ts'
import type { DirectDialerComponents } from '../../../node/net/direct-dialer.ts'
import { until } from '../../helpers/until.ts'

const PUBLIC = '/ip4/52.0.0.9/tcp/4115'
const NEAR = '/ip4/192.168.7.9/tcp/4115'
const FAR = '/ip4/10.3.0.9/tcp/4115'

/** A dialer in the network 192.168.7.0/24, one peer, and what was dialled. */
async function setUp(t: TestContext, init: { addresses: string[]; answers?: (address: string) => boolean }) {
  const id = peerIdFromPrivateKey(await generateKeyPair('Ed25519'))
  const relayed = `/ip4/52.0.0.1/tcp/4115/p2p/${id.toString()}/p2p-circuit/p2p/${id.toString()}`
  const world = { addresses: init.addresses, connections: [] as Connection[], dialled: [] as string[][] }
  const mesh = Object.assign(new EventTarget(), {
    getConnections: () => world.connections,
    peerStore: { get: async () => ({ addresses: world.addresses.map((address) => ({ multiaddr: multiaddr(address) })) }) },
    dial: async (addresses: readonly { toString(): string }[]) => {
      world.dialled.push(addresses.map(String))
      const answering = addresses.find((address) => init.answers?.(String(address)) ?? true)
      if (answering === undefined) throw new Error('connect ECONNREFUSED')
      return connection(PUBLIC)
    },
  })
  const connection = (address: string): Connection => {
    const opened = { remotePeer: id, remoteAddr: multiaddr(address), status: 'open' } as unknown as Connection
    world.connections.push(opened)
    mesh.dispatchEvent(new CustomEvent('connection:open', { detail: opened }))
    return opened
  }
  const dialer = new DirectDialer({
    mesh: mesh as unknown as DirectDialerComponents['mesh'],
    log: () => {},
    networks: () => ['192.168.7.1/24'],
  })
  dialer.start()
  t.after(() => dialer.stop())
  const update = (addresses: string[]): void => {
    world.addresses = addresses
    const peer = { id, addresses: addresses.map((address) => ({ multiaddr: multiaddr(address) })) }
    mesh.dispatchEvent(new CustomEvent('peer:update', { detail: { peer } }))
  }
  return { dialer, world, connection, update, relayed, peer: id.toString() }
}

test('a peer reached through a relay is dialled at addresses that can be its own: public ones, and those of this network', async (t) => {
  const { world, connection, relayed, peer } = await setUp(t, { addresses: [PUBLIC, NEAR, FAR] })
  connection(relayed)
  await until(() => world.dialled.length === 1, { what: 'a dial' })
  assert.deepEqual(world.dialled, [[`${PUBLIC}/p2p/${peer}`, `${NEAR}/p2p/${peer}`]])
})

test('an address that becomes known later is dialled at once, and not when the peer is reached directly', async (t) => {
  const { world, connection, update, relayed } = await setUp(t, { addresses: [FAR] })
  connection(relayed)
  update([FAR])
  update([FAR, PUBLIC])
  await until(() => world.dialled.length === 1, { what: 'a dial' })
  update([FAR, PUBLIC, NEAR])
  assert.equal(world.dialled.length, 1)
})

test('why a peer could not be dialled is told until it can', async (t) => {
  const { dialer, connection, update, relayed, peer } = await setUp(t, { addresses: [FAR], answers: () => false })
  connection(relayed)
  assert.equal(dialer.failure(peer), null)
  update([PUBLIC])
  await until(() => dialer.failure(peer), { what: 'a failure' })
  assert.match(dialer.failure(peer)!, /ECONNREFUSED/)
  connection(PUBLIC)
  assert.equal(dialer.failure(peer), null)
})

test('QUIC has a turn of its own where TCP leads nowhere', async (t) => {
  const quic = '/ip4/52.0.0.9/udp/4115/quic-v1'
  const { world, connection, relayed, peer } = await setUp(t, {
    addresses: [quic, PUBLIC],
    answers: (address) => address.includes('/udp/'),
  })
  connection(relayed)
  await until(() => world.dialled.length === 2, { what: 'two dials' })
  assert.deepEqual(world.dialled, [[`${PUBLIC}/p2p/${peer}`], [`${quic}/p2p/${peer}`]])
})
