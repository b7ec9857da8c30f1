/** Rate and latency of `/skein/expert/1` between two processes, over the connection that the product makes. */
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { multiaddr } from '@multiformats/multiaddr'
import { ExpertLinks } from '../../node/net/expert-links.ts'
import { Xoshiro128 } from '../../node/engine/random.ts'
import type { ExpertCall, ExpertClient } from '../../protocols/expert/index.ts'
import { benchMain, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { figure } from './figures.ts'
import type { Workspace } from './workspace.ts'
import { startMeshPeer } from './mesh-peer.ts'

/** Payloads as rows of f32, each routed to one expert. */
const PAYLOADS = Object.freeze([
  { name: '128 B', rows: 1, width: 32 },
  { name: '8 KiB', rows: 1, width: 2048 },
  { name: '256 KiB', rows: 32, width: 2048 },
])
const CONCURRENCIES = Object.freeze([1, 16, 64])
const WARM_UP_ROUNDS = 1
const MIN_SMALL_CALLS_PER_S = 30_000
const START_TIMEOUT_MS = 30_000

type Flag = 'rounds' | 'round-ms'

export const expertCallsBench: Bench<Flag> = {
  name: 'expert-calls',
  defaults: { rounds: '5', 'round-ms': '500' },

  async run({ workspace, seed, flags }) {
    const rounds = wholeNumber(flags.rounds, 'rounds', 1)
    const roundMs = wholeNumber(flags['round-ms'], 'round-ms', 1)
    const client = await connect(workspace)
    const cases = PAYLOADS.flatMap((payload) =>
      CONCURRENCIES.map((concurrency) => ({
        name: `${payload.name} × ${concurrency}`,
        call: echoCall(payload, seed),
        concurrency,
        bar: payload.rows * payload.width * 4 === 128 && concurrency === 64 ? { atLeast: MIN_SMALL_CALLS_PER_S } : null,
        rates: [] as number[],
        latencies: [] as number[],
      })),
    )
    // Round by round over all cases, so that a slow moment of the machine falls on each of them.
    for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
      for (const { call, concurrency, rates, latencies } of cases) {
        const measured = await callFor(roundMs, client, call, concurrency)
        if (round < 0) continue
        rates.push(measured.rate)
        for (const latency of measured.latencies) latencies.push(latency)
      }
    }
    return cases.flatMap(({ name, rates, latencies, bar }) => [
      figure(`${name}, rate`, 'calls/s', rates, bar),
      figure(`${name}, latency`, 'µs', latencies),
    ])
  },
}

async function connect(workspace: Workspace): Promise<ExpertClient> {
  const echoHost = fork(fileURLToPath(new URL('echo-host.ts', import.meta.url)), [workspace.dir])
  workspace.onClose(() => void echoHost.kill('SIGKILL'))
  const late = AbortSignal.timeout(START_TIMEOUT_MS)
  const ended = once(echoHost, 'exit', { signal: late }).then(() => {
    throw new Error('the echo host ended')
  })
  const [addresses] = (await Promise.race([once(echoHost, 'message', { signal: late }), ended])) as [string[]]
  ended.catch(() => {})
  const peer = await startMeshPeer(workspace.dir, 'driver')
  workspace.onClose(() => peer.stop())
  const connection = await peer.mesh.dial(addresses.map((address) => multiaddr(address)))
  if (!connection.encryption?.includes('tls')) throw new Error(`the connection is encrypted by ${connection.encryption}, not by TLS`)
  const links = new ExpertLinks({ dialer: peer.mesh, onChange: () => {} })
  workspace.onClose(() => links.stop())
  return await links.open(connection.remotePeer.toString())
}

function echoCall({ rows, width }: { rows: number; width: number }, seed: number): ExpertCall {
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

/** Keeps `concurrency` calls in flight for the time; latencies in microseconds. */
async function callFor(
  ms: number,
  client: ExpertClient,
  call: ExpertCall,
  concurrency: number,
): Promise<{ rate: number; latencies: number[] }> {
  const latencies: number[] = []
  const startedAt = performance.now()
  const end = startedAt + ms
  await Promise.all(
    Array.from({ length: concurrency }, async () => {
      for (let before = performance.now(); before < end;) {
        await client.call(call)
        const after = performance.now()
        latencies.push((after - before) * 1000)
        before = after
      }
    }),
  )
  return { rate: (latencies.length * 1000) / (performance.now() - startedAt), latencies }
}

if (import.meta.main) await benchMain(expertCallsBench.name, [expertCallsBench])
