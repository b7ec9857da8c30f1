import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import type { Connection } from '@libp2p/interface'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { streamPair } from '@libp2p/utils'
import { multiaddr } from '@multiformats/multiaddr'
import { ExpertLinks } from '../../../node/net/expert-links.ts'
import { createExpertHandler } from '../../../protocols/expert/index.ts'
import type { ServedCall } from '../../../protocols/expert/index.ts'
import { isMeshError } from '../../../protocols/wire/errors.ts'
import { callOf, echoOf } from '../../helpers/expert-stream.ts'
import { until } from '../../helpers/until.ts'

const HOST = peerIdFromPrivateKey(await generateKeyPair('Ed25519'))
const PEER = HOST.toString()
const RELAYED = `/ip4/192.0.2.1/tcp/1/p2p/${PEER}/p2p-circuit/p2p/${PEER}`
const DIRECT = `/ip4/192.0.2.2/udp/1/quic-v1/p2p/${PEER}`

type Serve = (call: ServedCall) => Promise<ReturnType<typeof echoOf>>

/** Links to one host with the connections that the test gives it. */
function setUp(t: TestContext) {
  const connections: Connection[] = []
  const changes: string[] = []
  const links = new ExpertLinks({
    dialer: { dial: async () => await Promise.resolve(connections[0]!), getConnections: () => connections },
    onChange: (_, isOpen, detail) => changes.push(`${isOpen ? 'open' : 'closed'} ${detail}`),
  })
  t.after(() => links.stop())
  const connect = (address: string, serve: Serve | null): void => {
    const newStream = async (): Promise<unknown> => {
      if (serve === null) throw new Error('this connection does not serve')
      const [ours, theirs] = await streamPair({ delay: 0 })
      createExpertHandler({ serve })(theirs, 'driver')
      return ours
    }
    connections.push({ remotePeer: HOST, remoteAddr: multiaddr(address), status: 'open', newStream } as unknown as Connection)
  }
  return { links, connect, changes, peer: PEER }
}

test('new calls move to a better connection, those under way end where they began', async (t) => {
  const { links, connect, changes, peer } = setUp(t)
  const held = Promise.withResolvers<void>()
  connect(RELAYED, async (call) => {
    await held.promise
    return echoOf(call)
  })
  const first = (await links.open(peer)).call(callOf({}, 1))
  assert.equal(links.canImprove(peer), false)
  connect(DIRECT, async (call) => await Promise.resolve(echoOf(call)))
  assert.equal(links.canImprove(peer), true)
  assert.equal(await links.improve(peer), true)
  assert.equal(links.canImprove(peer), false)

  const second = await links.get(peer)!.call(callOf({}, 2))
  assert.equal(second.data[0], 2)
  held.resolve()
  assert.equal((await first).data[0], 1)
  const { sent } = links.bytes
  assert.ok(sent > 0)
  assert.deepEqual(changes, ['open relay', 'open quic'])
  assert.equal(links.size, 1)
})

test('a better connection that does not serve leaves all as it was', async (t) => {
  const { links, connect, changes, peer } = setUp(t)
  connect(RELAYED, async (call) => await Promise.resolve(echoOf(call)))
  const client = await links.open(peer)
  connect(DIRECT, null)
  await assert.rejects(links.improve(peer), (error: unknown) => isMeshError(error, 'PeerLostError'))
  assert.equal(links.get(peer), client)
  assert.equal((await client.call(callOf({}, 3))).data[0], 3)
  assert.deepEqual(changes, ['open relay'])
})

test('a link that was replaced closes once it is idle, without a word', async (t) => {
  const { links, connect, changes, peer } = setUp(t)
  connect(RELAYED, async (call) => await Promise.resolve(echoOf(call)))
  const old = await links.open(peer)
  connect(DIRECT, async (call) => await Promise.resolve(echoOf(call)))
  await links.improve(peer)
  await until(() => !old.isOpen, { what: 'the end of the old link', timeoutMs: 5_000 })
  assert.equal(links.get(peer)!.isOpen, true)
  assert.deepEqual(changes, ['open relay', 'open quic'])
})
