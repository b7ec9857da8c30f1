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
import { openGate } from '../../node/swarm/gatekeeper.ts'
import { openSwarm } from '../../node/swarm/swarm.ts'

const NODES = Number(process.argv[2] ?? 200)
const LOOK_UPS = 50
const SHARDS = 20
const SETTLE_MS = 15_000
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

const dir = await mkdtemp(join(tmpdir(), 'skein-size-'))
const before = process.memoryUsage().rss
const startedAt = performance.now()
const nodes = [await startOne(join(dir, '0'), [])]
const ways = nodes[0]!.mesh.getMultiaddrs().map(String)
for (let i = 1; i < NODES; i++) nodes.push(await startOne(join(dir, String(i)), ways))
const createdMs = performance.now() - startedAt
while (nodes.some(({ mesh }) => mesh.getConnections().length === 0)) await delay(100)
const joinedMs = performance.now() - startedAt
await delay(SETTLE_MS)
const cids = await Promise.all(
  Array.from({ length: SHARDS }, async (_, i) => CID.createV1(raw.code, await sha256.digest(new TextEncoder().encode(`shard ${i}`)))),
)
for (const [i, cid] of cids.entries())
  await nodes[(i * 7 + 1) % NODES]!.mesh.contentRouting.provide(cid, { signal: AbortSignal.timeout(30_000) })
const times: number[] = []
let missed = 0
for (let i = 0; i < LOOK_UPS; i++) {
  const from = performance.now()
  let isFound = false
  const { mesh } = nodes[(i * 31 + 17) % NODES]!
  try {
    for await (const provider of mesh.contentRouting.findProviders(cids[i % SHARDS]!, { signal: AbortSignal.timeout(10_000) })) {
      isFound = provider.id !== undefined
      break
    }
  } catch {
    // Counted below.
  }
  if (isFound) times.push(performance.now() - from)
  else missed++
}
times.sort((a, b) => a - b)
const quantile = (q: number): number => Math.round(times[Math.min(times.length - 1, Math.floor(q * times.length))] ?? NaN)
const connections = nodes.map(({ mesh }) => mesh.getConnections().length).sort((a, b) => a - b)
console.log(
  JSON.stringify({
    nodes: NODES,
    createdMs: Math.round(createdMs),
    joinedMs: Math.round(joinedMs),
    memoryPerNodeMiB: Math.round(((process.memoryUsage().rss - before) / NODES / 2 ** 20) * 100) / 100,
    connectionsMedian: connections[connections.length >> 1],
    lookUps: { found: times.length, missed, p50Ms: quantile(0.5), p95Ms: quantile(0.95) },
  }),
)
await Promise.all(nodes.map(async ({ mesh }) => await mesh.stop()))
await Promise.all(nodes.map(({ datastore }) => datastore.close()))
await rm(dir, { recursive: true, force: true })
process.exit(0)
