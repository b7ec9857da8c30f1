import { subscribe, unsubscribe } from 'node:diagnostics_channel'
import type { Socket } from 'node:net'
import { noise } from '@chainsafe/libp2p-noise'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { identify, identifyPush } from '@libp2p/identify'
import type { PrivateKey } from '@libp2p/interface'
import { tcp } from '@libp2p/tcp'
import { createLibp2p } from 'libp2p'
import { bitmapOf, createLedger, createLedgerReplication } from '../../crdt/index.ts'
import type { Ledger, LedgerReplication } from '../../crdt/index.ts'
import { ledgerGossip } from '../../node/net/ledger-gossip.ts'
import { quietYamux } from '../../node/net/quiet-yamux.ts'
import { peerOfKey } from '../../crdt/peer-key.ts'

/** OLMoE's shape: what a driver of a real model states. */
export const SHAPE = Object.freeze({ layers: 16, experts: 64 })
const MODEL = 'bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku'
const OBSERVED_PEERS = 24

/** A started ledger of an author of the bench, which nobody's timer publishes. */
export async function benchLedger(privateKey: PrivateKey, clock: () => number): Promise<Ledger> {
  const ledger = createLedger({ privateKey, clock }, { swarm: 'bench', heartbeatMs: 3_600_000, ttlMs: 3_600_000 })
  await ledger.start()
  return ledger
}

/** States what a host states, and for a driver what it routes and measured, too. `n` makes it different from others. */
export function stateAll(ledger: Ledger, n: number, isDriver: boolean): void {
  ledger.set('profile', { name: `node-${n}`, version: '0.1.0', relayed: false })
  const shard = (n * 7) % SHAPE.experts
  const held = bitmapOf(Array.from({ length: 16 }, (_, i) => (shard + i) % SHAPE.experts))
  ledger.set('holdings', new Map([[MODEL, Array.from({ length: SHAPE.layers }, () => held)]]))
  const latency = { first: 80, counts: Uint32Array.from({ length: 12 }, (_, i) => 1 + ((n + i * i) % 300)) }
  ledger.set('service', { served: 1_000 + n, busy: 1, failed: 0, p50Us: 4_000, p95Us: 9_000, latency })
  if (!isDriver) return
  const { layers, experts } = SHAPE
  const counts = Array.from({ length: layers * experts }, (_, i) => ((i + n) * 7919) % (i % 7 === 0 ? 90_001 : 9_001))
  const pairs = Array.from(
    { length: layers },
    (_, layer) => new Map(Array.from({ length: 64 }, (__, i) => [((layer + i * n) % 63) * 64 + 63, i + 1])),
  )
  ledger.addRouted(MODEL, { layers, experts, counts, pairs })
  const others = Array.from({ length: OBSERVED_PEERS }, (_, i) => peerOfKey(Buffer.alloc(32, `${(n * 31 + i) % 997} peer`)))
  ledger.set(
    'observed',
    new Map(
      others.map((peer, i) => [
        peer,
        { rttUs: 20_000 + i, calls: 900, failures: 1, notHeld: 0, auditsPassed: 0, auditsFailed: 0, latency },
      ]),
    ),
  )
}

/** Reads all of the heat map, and returns how many authors are in it. */
export function readHeat(ledger: Ledger): number {
  const { authors, pairs } = ledger.view().heat(MODEL, { ...SHAPE, nowMs: Date.now() })
  return pairs.length === 0 ? 0 : authors
}

/** Another token routed by this author. */
export function routeOne(ledger: Ledger, n: number): void {
  const counts = new Float64Array(SHAPE.layers * SHAPE.experts)
  counts[n % counts.length] = 1
  ledger.addRouted(MODEL, { ...SHAPE, counts })
}

export interface GossipNode {
  readonly ledger: Ledger
  readonly replication: LedgerReplication
  readonly libp2p: Awaited<ReturnType<typeof createNode>>
}

/** Nodes on loopback with the product's gossip, each connected to every other, and the bytes that their sockets carry. */
export class LedgerSwarm {
  readonly nodes: GossipNode[] = []
  readonly #sockets = new Set<Socket>()
  readonly #watch = (message: unknown): void => void this.#sockets.add((message as { socket: Socket }).socket)

  static async start(count: number): Promise<LedgerSwarm> {
    const swarm = new LedgerSwarm()
    for (const channel of CHANNELS) subscribe(channel, swarm.#watch)
    for (let n = 0; n < count; n++) {
      const privateKey = await generateKeyPair('Ed25519')
      const libp2p = await createNode(privateKey)
      const ledger = await benchLedger(privateKey, Date.now)
      // Syncs are measured one by one.
      const replication = createLedgerReplication({ ledger, libp2p, pubsub: libp2p.services.pubsub }, { syncIntervalMs: 3_600_000 })
      await replication.start()
      for (const other of swarm.nodes) await libp2p.dial(other.libp2p.getMultiaddrs())
      swarm.nodes.push({ ledger, replication, libp2p })
    }
    return swarm
  }

  /** Bytes sent so far by all nodes together; as many were received. */
  get sentBytes(): number {
    let bytes = 0
    for (const socket of this.#sockets) bytes += socket.bytesWritten
    return bytes
  }

  async stop(): Promise<void> {
    for (const channel of CHANNELS) unsubscribe(channel, this.#watch)
    for (const { replication, ledger, libp2p } of this.nodes) {
      await replication.stop()
      await ledger.stop()
      await libp2p.stop()
    }
  }
}

const CHANNELS = Object.freeze(['net.client.socket', 'net.server.socket'] as const)

async function createNode(privateKey: PrivateKey) {
  return await createLibp2p({
    privateKey,
    addresses: { listen: ['/ip4/127.0.0.1/tcp/0'] },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [quietYamux({})],
    connectionMonitor: { enabled: false },
    connectionManager: { inboundConnectionThreshold: 1_000 },
    services: { identify: identify(), identifyPush: identifyPush(), pubsub: ledgerGossip() },
  })
}
