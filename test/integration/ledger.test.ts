import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { noise } from '@chainsafe/libp2p-noise'
import { gossipsub } from '@libp2p/gossipsub'
import type { GossipSub } from '@libp2p/gossipsub'
import { identify, identifyPush } from '@libp2p/identify'
import type { Libp2p } from '@libp2p/interface'
import { memory } from '@libp2p/memory'
import { yamux } from '@libp2p/yamux'
import { createLibp2p } from 'libp2p'
import { bitmapOf, createLedger, createLedgerReplication } from '../../crdt/index.ts'
import type { Ledger, LedgerReplication } from '../../crdt/index.ts'
import { createLedgerClient, gossipTopic } from '../../protocols/ledger/index.ts'
import { encodeDigest } from '../../protocols/ledger/messages.ts'
import { isMeshError } from '../../protocols/wire/errors.ts'
import { envelopeOf, keyNumber, peerOf, snapshotOf, updateOf } from '../helpers/ledger.ts'

const SWARM = 'integration'
const MODEL = 'model'
/** As long as a condition may take on a busy machine; it takes about a second. */
const DEADLINE_MS = 30_000

interface Node {
  readonly libp2p: Libp2p<{ pubsub: GossipSub }>
  readonly ledger: Ledger
  readonly replication: LedgerReplication
}

/** Keys of this process, so that test files can run side by side. */
let nextKey = process.pid * 100

async function createNode(t: TestContext, syncIntervalMs = 300_000): Promise<Node> {
  const privateKey = await keyNumber(nextKey++)
  const libp2p = await createLibp2p({
    privateKey,
    addresses: { listen: [`/memory/${peerOf(privateKey)}`] },
    transports: [memory()],
    connectionEncrypters: [noise()],
    streamMuxers: [yamux()],
    connectionMonitor: { enabled: false },
    connectionManager: { inboundConnectionThreshold: 1000 },
    services: {
      identify: identify(),
      identifyPush: identifyPush(),
      pubsub: gossipsub({
        allowPublishToZeroTopicPeers: true,
        globalSignaturePolicy: 'StrictSign',
        emitSelf: false,
        heartbeatInterval: 200,
      }),
    },
  })
  const ledger = createLedger({ privateKey }, { swarm: SWARM, minPublishIntervalMs: 20, statisticsIntervalMs: 50, heartbeatMs: 1_000 })
  const replication = createLedgerReplication({ ledger, libp2p, pubsub: libp2p.services.pubsub }, { syncIntervalMs })
  await ledger.start()
  await replication.start()
  t.after(async () => {
    await replication.stop()
    await ledger.stop()
    await libp2p.stop()
  })
  return { libp2p, ledger, replication }
}

async function dial(from: Node, to: Node): Promise<void> {
  await from.libp2p.dial(to.libp2p.getMultiaddrs()[0]!)
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const end = performance.now() + DEADLINE_MS
  while (!condition()) {
    if (performance.now() > end) throw new Error(`not within ${DEADLINE_MS} ms: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 20))
  }
}

/** A line of nodes, so that gossip has to be forwarded. */
async function createLine(t: TestContext, length: number): Promise<Node[]> {
  const nodes = await Promise.all(Array.from({ length }, () => createNode(t)))
  for (const [i, node] of nodes.entries()) if (i > 0) await dial(node, nodes[i - 1]!)
  await until('gossip knows the neighbours', () =>
    nodes.every(
      ({ libp2p }, i) => libp2p.services.pubsub.getSubscribers(gossipTopic(SWARM)).length === (i === 0 || i === length - 1 ? 1 : 2),
    ),
  )
  return nodes
}

const agree = (nodes: readonly Node[], authors: number) => (): boolean => {
  const views = nodes.map(({ ledger }) => JSON.stringify(snapshotOf(ledger.view())))
  return nodes[0]!.ledger.view().authors.size === authors && views.every((view) => view === views[0])
}

test('five nodes agree by gossip, a late joiner by sync, and a goodbye is heard by all', async (t) => {
  const nodes = await createLine(t, 5)
  for (const [i, { ledger }] of nodes.entries()) {
    ledger.set('profile', { name: `node ${i}`, version: '1', relayed: false })
    ledger.set('holdings', new Map([[MODEL, [bitmapOf([i, i + 1])]]]))
    ledger.addRouted(MODEL, { layers: 1, experts: 6, counts: [1, 0, 0, 0, 0, i] })
  }
  await until('five agree', agree(nodes, 5))
  const view = nodes[4]!.ledger.view()
  assert.deepEqual(view.coverage(MODEL, 1, 6), { experts: 6, covered: 6, minReplicas: 1 })
  assert.deepEqual(Array.from(view.routed(MODEL, 1, 6)), [5, 0, 0, 0, 0, 10])

  const late = await createNode(t)
  await dial(late, nodes[2]!)
  await until('the late joiner agrees', agree([...nodes, late], 5))
  assert.ok(late.replication.stats().syncs >= 1)

  const leaving = nodes[0]!
  const { author } = leaving.ledger
  await leaving.ledger.goodbye()
  await until('nobody counts on the one that left', () => [...nodes, late].every(({ ledger }) => !ledger.view().authors.has(author)))
})

test('a replication that starts after its node was connected still finds its peers', async (t) => {
  const [a, b] = [await createNode(t, 200), await createNode(t, 200)]
  await dial(a, b)
  await until('a knows that b speaks the protocol', () => a.replication.stats().peers === 1 && b.replication.stats().peers === 1)
  await b.replication.stop()
  // Without replication nothing is gossiped.
  b.ledger.set('profile', { name: 'b', version: '1', relayed: false })
  await until('b has its own record', () => b.ledger.stats().published > 0)
  await b.replication.start()
  await until('a knows b', () => a.ledger.view().authors.get(b.ledger.author)?.profile?.name === 'b')
})

test('a forged envelope is neither applied nor forwarded, and its sender is ignored after a few', async (t) => {
  const nodes = await createLine(t, 4)
  const [mallory, neighbour, ...others] = nodes as [Node, Node, ...Node[]]
  const topic = gossipTopic(SWARM)
  // Mallory signs as itself what claims to be the last node's, and gossips it past its own ledger.
  const key = await keyNumber(1)
  const now = Date.now()
  const update = updateOf(peerOf(key), 'profile', Uint8Array.of(1))
  const forged = Uint8Array.from(await envelopeOf(key, { swarm: SWARM, epoch: now, createdMs: now, update }))
  forged.set(others[1]!.libp2p.peerId.publicKey!.raw, 2)
  await mallory.libp2p.services.pubsub.publish(topic, forged)
  await until('the neighbour rejects it', () => neighbour.ledger.stats().rejected.signature === 1)
  // What is gossiped after it by the same way has passed everyone, so the forgery would have too.
  mallory.ledger.set('profile', { name: 'after', version: '1', relayed: false })
  const { author } = mallory.ledger
  await until('a good record arrives', () => others.every(({ ledger }) => ledger.view().authors.get(author)?.profile?.name === 'after'))
  for (const { ledger } of others) assert.equal(ledger.stats().rejected.signature, 0)

  for (let i = 0; i < 12; i++) {
    forged[forged.length - 1]! ^= 1 + i
    await mallory.libp2p.services.pubsub.publish(topic, forged)
  }
  await until('the neighbour no longer listens', () => neighbour.replication.stats().ignored >= 3)
  assert.ok(neighbour.ledger.stats().rejected.signature <= 9)
  for (const { ledger } of others) assert.equal(ledger.stats().rejected.signature, 0)
})

test('a node of another swarm is refused, and start and stop may be called twice', async (t) => {
  const [a, b] = [await createNode(t), await createNode(t)]
  await a.replication.start()
  await dial(a, b)
  const stranger = createLedgerClient({
    access: { swarm: 'other', digest: () => encodeDigest([]), missing: () => [], receive: async () => await Promise.resolve('ignored') },
    openStream: async (_, protocol, options) => await a.libp2p.dialProtocol(b.libp2p.peerId, protocol, options),
  })
  await assert.rejects(stranger.sync(b.libp2p.peerId.toString()), (error) => isMeshError(error, 'PeerRefusedError'))
  b.ledger.set('profile', { name: 'b', version: '1', relayed: false })
  await until('b has its own record', () => b.ledger.stats().published > 0)
  await a.replication.sync(b.libp2p.peerId)
  assert.equal(a.ledger.view().authors.get(b.ledger.author)?.profile?.name, 'b')
  await b.replication.stop()
  await b.replication.stop()
  await assert.rejects(a.replication.sync(b.libp2p.peerId))
})
