/** Many nodes in one process join one swarm: time, memory of a node, and how long a look-up of a shard's holders in the DHT takes. */
import { generateKeyPair } from '@libp2p/crypto/keys'
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
import { routingOf } from '../../node/net/swarm-dht.ts'
import { openGate } from '../../node/swarm/gatekeeper.ts'
import { openSwarm } from '../../node/swarm/swarm.ts'

const NODES = Number(process.argv[2] ?? 200)
const LOOK_UPS = 50
const SHARDS = 20
/** Settled is a swarm whose nodes together take less than this share of a core, looked at over some seconds, or that had so much time. */
const CALM_SHARE = 0.5
const LOOK_MS = 3_000
const MAX_SETTLE_MS = 150_000
const LISTEN = ['/ip4/127.0.0.1/tcp/0']

interface Started {
  readonly mesh: Mesh
  readonly datastore: MeshDatastore
}

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
for (const [i, cid] of cids.entries())
  await routingOf(nodes[(i * 7 + 1) % NODES]!.mesh.services.dht).provide(cid, { signal: AbortSignal.timeout(30_000) })
settleMs.push(await settle())
const providedCpuMs = cpuMs()
const times: number[] = []
let missed = 0
for (let i = 0; i < LOOK_UPS; i++) {
  const from = performance.now()
  let isFound = false
  const { mesh } = nodes[(i * 31 + 17) % NODES]!
  try {
    for await (const provider of routingOf(mesh.services.dht).findProviders(cids[i % SHARDS]!, { signal: AbortSignal.timeout(10_000) })) {
      isFound = provider.id !== undefined
      break
    }
  } catch {
    // Counted below.
  }
  if (isFound) times.push(performance.now() - from)
  else missed++
}
const cpuMsEach = Math.round((cpuMs() - providedCpuMs) / LOOK_UPS)
times.sort((a, b) => a - b)
const quantile = (q: number): number => Math.round(times[Math.min(times.length - 1, Math.floor(q * times.length))] ?? NaN)
const connections = nodes.map(({ mesh }) => mesh.getConnections().length).sort((a, b) => a - b)
console.log(
  JSON.stringify({
    nodes: NODES,
    createdMs: Math.round(createdMs),
    joinedMs: Math.round(joinedMs),
    settleMs,
    memoryPerNodeMiB: Math.round(((process.memoryUsage().rss - before) / NODES / 2 ** 20) * 100) / 100,
    connectionsMedian: connections[connections.length >> 1],
    lookUps: { found: times.length, missed, p50Ms: quantile(0.5), p95Ms: quantile(0.95), cpuMsEach },
  }),
)
await Promise.all(nodes.map(async ({ mesh }) => await mesh.stop()))
await Promise.all(nodes.map(({ datastore }) => datastore.close()))
await rm(dir, { recursive: true, force: true })
process.exit(0)
