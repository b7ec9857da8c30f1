import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { SwarmStatus } from '../../node/api/services.ts'
import type { QueryReport } from '../../node/driver/query.ts'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { ensureEmbeddedModel } from '../../node/model/embedded.ts'
import type { Manifest, ShardEntry } from '../../node/model/manifest.ts'
import type { DaemonProcess } from '../daemon-process.ts'
import type { Workspace } from './workspace.ts'

export interface LoopbackSwarm {
  readonly gateway: DaemonProcess
  readonly hosts: readonly DaemonProcess[]
}

/** The embedded model, packed once into a store that all daemons of the workspace share. */
export interface SharedModel {
  readonly storeDir: string
  readonly manifest: Manifest
}

/**
 * How shards lie on the hosts: `layers` gives a host whole layers, as `--host 0.5` does, so that a layer is one call; `halves` gives it half of
 * the experts of some layers, so that two hosts compute a layer at the same time; `shards` deals them out one by one.
 */
export const LAYOUTS = ['layers', 'halves', 'shards'] as const
export type Layout = (typeof LAYOUTS)[number]

const READY_TIMEOUT_MS = 60_000
const POLL_MS = 100
/** One thread each, on both sides of every comparison: the machine has no more cores for the swarm than for one process. */
const THREADS = 1

export async function packModel(workspace: Workspace): Promise<SharedModel> {
  const storeDir = join(workspace.dir, 'blobs')
  const { manifest } = await ensureEmbeddedModel(createBlobStore({ dir: storeDir }))
  return { storeDir, manifest }
}

/** Flags of a daemon that meets only those of its own swarm, on loopback. */
export function daemonFlags(init: { swarm: string; dataDir: string; host: string }): string[] {
  const { swarm, dataDir, host } = init
  const fixed = ['--listen', '/ip4/127.0.0.1/tcp/0', '--no-mdns', '--api-port', '0', '--threads', String(THREADS), '--log', 'error']
  return ['--swarm', swarm, '--data', dataDir, '--host', host, ...fixed]
}

/** One process that has everything. */
export async function startOneProcess(workspace: Workspace, model: SharedModel): Promise<DaemonProcess> {
  const flags = daemonFlags({ swarm: 'bench-one', dataDir: join(workspace.dir, 'one'), host: 'all' })
  return await workspace.spawn([...flags, '--store', model.storeDir])
}

/** A gateway that hosts nothing, and hosts that between them hold every shard twice (once if there is one host); resolves when all have answered a call. */
export async function startSwarm(
  workspace: Workspace,
  model: SharedModel,
  init: { name: string; hosts: number; layout: Layout },
): Promise<LoopbackSwarm> {
  const { name, hosts: hostCount, layout } = init
  const start = (member: string, host: string, bootstrap: readonly string[]): Promise<DaemonProcess> => {
    const flags = daemonFlags({ swarm: `bench-${name}`, dataDir: join(workspace.dir, name, member), host })
    return workspace.spawn([...flags, '--store', model.storeDir, ...bootstrap.flatMap((address) => ['--bootstrap', address])])
  }
  const replicas = Math.min(2, hostCount)
  const shareOf = (host: number): string => hostFlag(shareOfHost(model.manifest, { host, hosts: hostCount, layout, replicas }))
  const gateway = await start('gateway', 'none', [])
  const hosts = await Promise.all(Array.from({ length: hostCount }, (_, i) => start(`host-${i}`, shareOf(i), gateway.addresses)))
  await waitUntilReady(gateway, { hosts: hostCount, replicas })
  return { gateway, hosts }
}

/** The shards of one of several hosts that between them hold each so many times. */
export function shareOfHost(
  manifest: Manifest,
  init: { readonly host: number; readonly hosts: number; readonly layout: Layout; readonly replicas: number },
): ShardEntry[] {
  const { host, hosts, layout, replicas } = init
  const shards = manifest.blobs.filter((blob): blob is ShardEntry => blob.role === 'experts')
  return shards.filter((shard, i) => {
    const half = shard.first < manifest.config.experts / 2 ? 0 : 1
    const turn = { layers: shard.layer, halves: 2 * shard.layer + half, shards: i }[layout]
    return Array.from({ length: replicas }, (_, replica) => (turn + replica) % hosts).includes(host)
  })
}

/** The value of `--host` for these shards. */
export function hostFlag(shards: readonly ShardEntry[]): string {
  return shards.map(({ layer, first, last }) => `${layer}:${first}-${last}`).join(',')
}

export interface Asked {
  readonly text: string
  readonly promptTokens: number
  readonly completionTokens: number
  readonly report: QueryReport
}

/** One greedy completion of the embedded model. Throws with the node's own words when it refuses, and when the answer is not exact. */
export async function complete(
  daemon: DaemonProcess,
  init: { model: string; prompt: string; maxTokens: number; skein?: Readonly<Record<string, string>> },
): Promise<Asked> {
  const { model, prompt, maxTokens, skein = {} } = init
  const response = await fetch(`${daemon.url}/v1/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model, prompt, max_tokens: maxTokens, temperature: 0, skein }),
  })
  const body = (await response.json()) as {
    error?: { message: string }
    choices: { text: string }[]
    usage: { prompt_tokens: number; completion_tokens: number }
    skein: QueryReport
  }
  if (!response.ok) throw new Error(body.error?.message ?? `the node answered ${response.status}`)
  if (!body.skein.exact) throw new Error('the answer is not exact')
  return {
    text: body.choices[0]!.text,
    promptTokens: body.usage.prompt_tokens,
    completionTokens: body.usage.completion_tokens,
    report: body.skein,
  }
}

/** Resolves when all hosts have answered a call, and each shard is held as often as it should be. */
export async function waitUntilReady(gateway: DaemonProcess, init: { readonly hosts: number; readonly replicas: number }): Promise<void> {
  const { hosts: hostCount, replicas } = init
  const deadline = performance.now() + READY_TIMEOUT_MS
  for (;;) {
    const status = (await (await fetch(`${gateway.url}/api/swarm`)).json()) as SwarmStatus
    const answered = status.peers.filter((peer) => peer.rttMs !== null).length
    if (status.ready && answered === hostCount && status.models.every((model) => model.coverage.minReplicas >= replicas)) return
    if (performance.now() > deadline)
      throw new Error(`the swarm was not ready within ${READY_TIMEOUT_MS / 1000} s: ${answered} of ${hostCount} hosts answered`)
    await delay(POLL_MS)
  }
}
