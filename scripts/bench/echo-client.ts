import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { multiaddr } from '@multiformats/multiaddr'
import { Xoshiro128 } from '../../node/engine/random.ts'
import { ExpertLinks } from '../../node/net/expert-links.ts'
import type { Mesh } from '../../node/net/mesh.ts'
import type { ExpertCall, ExpertClient } from '../../protocols/expert/index.ts'
import type { EchoHostReady } from './echo-host.ts'
import { startMeshPeer } from './mesh-peer.ts'
import type { Workspace } from './workspace.ts'

const START_TIMEOUT_MS = 120_000

/** A host that echoes calls, in a process of its own, and a driver's link to it. */
export interface EchoClient {
  readonly mesh: Mesh
  readonly client: ExpertClient
  /** Peer id of the host, and the blobs that it has. */
  readonly host: string
  readonly cids: readonly string[]
}

/** Starts both over the connection that the product makes; the host has so many random blobs of so many bytes. */
export async function connectToEchoHost(workspace: Workspace, blobs = 0, bytes = 0): Promise<EchoClient> {
  const echoHost = fork(fileURLToPath(new URL('echo-host.ts', import.meta.url)), [workspace.dir, String(blobs), String(bytes)])
  workspace.onClose(() => void echoHost.kill('SIGKILL'))
  const late = AbortSignal.timeout(START_TIMEOUT_MS)
  const ended = once(echoHost, 'exit', { signal: late }).then(() => {
    throw new Error('the echo host ended')
  })
  const [{ addresses, cids }] = (await Promise.race([once(echoHost, 'message', { signal: late }), ended])) as [EchoHostReady]
  ended.catch(() => {})
  const peer = await startMeshPeer(workspace.dir, 'driver')
  workspace.onClose(() => peer.stop())
  const connection = await peer.mesh.dial(addresses.map((address) => multiaddr(address)))
  if (!connection.encryption?.includes('tls')) throw new Error(`the connection is encrypted by ${connection.encryption}, not by TLS`)
  const links = new ExpertLinks({ dialer: peer.mesh, onChange: () => {} })
  workspace.onClose(() => links.stop())
  const host = connection.remotePeer.toString()
  return { mesh: peer.mesh, client: await links.open(host), host, cids }
}

/** A call of f32 rows, each routed to one expert. */
export function echoCall({ rows, width }: { rows: number; width: number }, seed: number): ExpertCall {
  const random = Xoshiro128.fromSeed(seed)
  return {
    model: '00'.repeat(32),
    layer: 0,
    priority: 0,
    deadlineMs: 30_000,
    combine: true,
    rowType: 'f32',
    rows,
    width,
    x: Float32Array.from({ length: rows * width }, () => random.nextFloat() - 0.5),
    pickRow: Uint16Array.from({ length: rows }, (_, row) => row),
    pickExpert: new Uint16Array(rows),
    pickWeight: new Float32Array(rows).fill(1),
  }
}

/** Keeps `concurrency` calls in flight as long as they are wanted; latencies in microseconds. */
export async function callWhile(
  isWanted: (nowMs: number) => boolean,
  client: ExpertClient,
  call: ExpertCall,
  concurrency: number,
): Promise<{ rate: number; latencies: number[] }> {
  const latencies: number[] = []
  const startedAt = performance.now()
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      for (let before = performance.now(); isWanted(before);) {
        await client.call(call)
        const after = performance.now()
        latencies.push((after - before) * 1000)
        before = after
      }
    }),
  )
  return { rate: (latencies.length * 1000) / (performance.now() - startedAt), latencies }
}
