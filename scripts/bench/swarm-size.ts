/**
 * Many nodes in one process join one swarm: time, memory of a node, and how long a look-up of a shard's holders in the DHT takes, asked as
 * the product asks, by nodes that neither hold the shard nor keep its records. One misses when it does not find all holders.
 */
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Provider } from '@libp2p/interface'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'
import { createMesh, startMesh } from '../../node/net/mesh.ts'
import type { Mesh } from '../../node/net/mesh.ts'
import { openMeshDatastore } from '../../node/net/mesh-datastore.ts'
import type { MeshDatastore } from '../../node/net/mesh-datastore.ts'
import { ProviderRecords } from '../../node/net/provider-records.ts'
import { routingOf } from '../../node/net/swarm-dht.ts'
import type { SwarmRouting } from '../../node/net/swarm-dht.ts'
import { openGate } from '../../node/swarm/gatekeeper.ts'
import { openSwarm } from '../../node/swarm/swarm.ts'

const NODES = Number(process.argv[2] ?? 200)
const LOOK_UPS = 50
const SHARDS = 20
const HOLDERS = 3
/** More than there are, as in the product. */
const LIMIT = 8
const LOOK_UP_TIMEOUT_MS = 10_000
/** Settled is a swarm whose nodes together take less than this share of a core, looked at over some seconds, or that had so much time. */
const CALM_SHARE = 0.5
const LOOK_MS = 3_000
const MAX_SETTLE_MS = 150_000
const LISTEN = ['/ip4/127.0.0.1/tcp/0']

interface Started {
  readonly mesh: Mesh
  readonly datastore: MeshDatastore
}

/** Connections that the nodes have opened so far. */
let dials = 0

async function startOne(dir: string, bootstrap: readonly string[]): Promise<Started> {
  const datastore = await openMeshDatastore(dir)
  const mesh = await createMesh({
    privateKey: await generateKeyPair('Ed25519'),
    gate: openGate(openSwarm('bench-size')),
    version: 'bench',
    listen: LISTEN,
    bootstrap,
    mdns: false,
    datastore,
  })
  mesh.addEventListener('connection:open', ({ detail }) => {
    if (detail.direction === 'outbound') dials++
  })
  await startMesh(mesh, LISTEN)
  return { mesh, datastore }
}

/** CPU time of the process so far, in milliseconds. */
function cpuMs(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/** Resolves with the time it took. Nodes that have just met verify each other's addresses and fill their routing tables. */
async function settle(): Promise<number> {
  const from = performance.now()
  for (let share = 1; share > CALM_SHARE && performance.now() - from < MAX_SETTLE_MS;) {
    const before = cpuMs()
    await delay(LOOK_MS)
    share = (cpuMs() - before) / LOOK_MS
  }
  return Math.round(performance.now() - from)
}

/** A node that does not keep a record of the CID; the first one from the given place on. */
async function strangerTo(cid: CID, place: number): Promise<Mesh> {
  for (let i = 0; i < NODES; i++) {
    const { mesh } = nodes[(place + i) % NODES]!
    // `@libp2p/kad-dht` 16.4.5 has it, though its interface does not say so.
    const { providers } = mesh.services.dht as unknown as { providers: { getProviders(cid: CID): Promise<unknown[]> } }
    if ((await providers.getProviders(cid)).length === 0) return mesh
  }
  throw new Error('every node keeps the record: the swarm is too small for a look-up')
}

const dir = await mkdtemp(join(tmpdir(), 'skein-size-'))
const before = process.memoryUsage().rss
const startedAt = performance.now()
const nodes = [await startOne(join(dir, '0'), [])]
const ways = nodes[0]!.mesh.getMultiaddrs().map(String)
for (let i = 1; i < NODES; i++) nodes.push(await startOne(join(dir, String(i)), ways))
const createdMs = performance.now() - startedAt
while (nodes.some(({ mesh }) => mesh.getConnections().length === 0)) await delay(100)
const joinedMs = performance.now() - startedAt
const settleMs = [await settle()]
const cids = await Promise.all(
  Array.from({ length: SHARDS }, async (_, i) => CID.createV1(raw.code, await sha256.digest(new TextEncoder().encode(`shard ${i}`)))),
)
const holdersOf = cids.map((_, i) => Array.from({ length: HOLDERS }, (__, j) => nodes[(i * 7 + j * 53 + 1) % NODES]!.mesh))
for (const [i, cid] of cids.entries())
  for (const mesh of holdersOf[i]!) await routingOf(mesh.services.dht).provide(cid, { signal: AbortSignal.timeout(30_000) })
settleMs.push(await settle())
const idleFrom = cpuMs()
await delay(LOOK_MS)
const idleShare = (cpuMs() - idleFrom) / LOOK_MS
const dialsBefore = dials
const lookUpsFrom = cpuMs()
const times: number[] = []
const firstTimes: number[] = []
let missed = 0
for (let i = 0; i < LOOK_UPS; i++) {
  const cid = cids[i % SHARDS]!
  const mesh = await strangerTo(cid, i * 31 + 17)
  const routing = routingOf(mesh.services.dht)
  const from = performance.now()
  let firstMs = Infinity
  async function* findProviders(...args: Parameters<SwarmRouting['findProviders']>): AsyncGenerator<Provider> {
    for await (const provider of routing.findProviders(...args)) {
      firstMs = Math.min(firstMs, performance.now() - from)
      yield provider
    }
  }
  const records = new ProviderRecords({
    routing: { ...routing, findProviders },
    peers: () => mesh.getPeers().length,
    log: (event, fields) => console.error(event, fields),
  })
  const found = new Set((await records.find(cid.toString(), LIMIT, AbortSignal.timeout(LOOK_UP_TIMEOUT_MS))).map(String))
  times.push(performance.now() - from)
  firstTimes.push(firstMs)
  if (!holdersOf[i % SHARDS]!.every(({ peerId }) => found.has(peerId.toString()))) missed++
}
const cpuMsEach = Math.round((cpuMs() - lookUpsFrom) / LOOK_UPS)
const dialsEach = (dials - dialsBefore) / LOOK_UPS
const quantile = (of: number[], q: number): number => Math.round(of.sort((a, b) => a - b)[Math.floor(q * of.length)]!)
const connections = nodes.map(({ mesh }) => mesh.getConnections().length).sort((a, b) => a - b)
console.log(
  JSON.stringify({
    nodes: NODES,
    createdMs: Math.round(createdMs),
    joinedMs: Math.round(joinedMs),
    settleMs,
    memoryPerNodeMiB: Math.round(((process.memoryUsage().rss - before) / NODES / 2 ** 20) * 100) / 100,
    connectionsMedian: connections[connections.length >> 1],
    idleShare: Math.round(idleShare * 100) / 100,
    lookUps: {
      found: LOOK_UPS - missed,
      missed,
      p50Ms: quantile(times, 0.5),
      p95Ms: quantile(times, 0.95),
      firstHolderP95Ms: quantile(firstTimes, 0.95),
      newConnectionsEach: Math.round(dialsEach * 10) / 10,
      cpuMsEach,
    },
  }),
)
await Promise.all(nodes.map(async ({ mesh }) => await mesh.stop()))
await Promise.all(nodes.map(({ datastore }) => datastore.close()))
await rm(dir, { recursive: true, force: true })
process.exit(0)
