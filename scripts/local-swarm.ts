/**
 * `npm start`: a swarm of separate processes on this machine answers a real question. One gateway that hosts nothing, three hosts that
 * between them hold every expert twice.
 */
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { SwarmStatus } from '../node/api/services.ts'
import { describeReport, streamAnswer } from '../node/cli/ask.ts'
import { createBlobStore } from '../node/model/blob-store.ts'
import { onStopSignal } from '../node/cli/stop-signals.ts'
import { ensureEmbeddedModel } from '../node/model/embedded.ts'
import { spawnDaemon } from './daemon-process.ts'
import type { DaemonProcess } from './daemon-process.ts'

const HOSTS = 3
const READY_TIMEOUT_MS = 60_000
const DEFAULT_PROMPT = 'Tell me a story about a dog.'
/** The embedded model rambles after that. */
const MAX_TOKENS = 120

const { values } = parseArgs({
  options: {
    once: { type: 'boolean', default: false },
    prompt: { type: 'string', default: DEFAULT_PROMPT },
    'api-port': { type: 'string', default: '4114' },
    seed: { type: 'string', default: '7' },
  },
})

const startedAt = performance.now()
const seconds = (): string => `${((performance.now() - startedAt) / 1000).toFixed(1)} s`
const dir = await mkdtemp(join(tmpdir(), 'skein-swarm-'))
const daemons: DaemonProcess[] = []
const ended = Promise.withResolvers<string>()

const interrupt = new AbortController()
const starting: Promise<unknown>[] = []

async function shutDown(code: number): Promise<never> {
  interrupt.abort(new Error('interrupted'))
  await Promise.allSettled(starting)
  await Promise.all(daemons.map((daemon) => daemon.stop()))
  await rm(dir, { recursive: true, force: true, maxRetries: 5 })
  process.exit(code)
}

onStopSignal(() => {
  console.log('\nstopping the swarm …')
  void shutDown(values.once ? 1 : 0)
})

try {
  const storeDir = join(dir, 'blobs')
  const model = await ensureEmbeddedModel(createBlobStore({ dir: storeDir }))
  const { layers, experts } = model.manifest.config
  console.log(
    `packed ${model.manifest.name}: ${layers} layers × ${experts} experts, top ${model.manifest.config.expertsPerToken} (${seconds()})`,
  )

  const shards = model.manifest.blobs.filter((blob) => blob.role === 'experts')
  const common = [
    '--store',
    storeDir,
    '--swarm',
    'local',
    '--listen',
    '/ip4/127.0.0.1/tcp/0',
    '--no-mdns',
    '--threads',
    '1',
    '--log',
    'error',
  ]
  const start = async (name: string, host: string, apiPort: string, bootstrap: readonly string[]): Promise<DaemonProcess> => {
    const args = [...common, '--name', name, '--data', join(dir, name), '--host', host, '--api-port', apiPort]
    const flags = [...args, ...bootstrap.flatMap((address) => ['--bootstrap', address])]
    const spawning = spawnDaemon(flags, { signal: interrupt.signal })
    starting.push(spawning)
    const daemon = await spawning
    daemons.push(daemon)
    void daemon.exited.then((code) => ended.resolve(`${name} ended with ${code}`))
    return daemon
  }
  const gateway = await start('gateway', 'none', values['api-port'], [])
  // Shard i of the model goes to hosts i and i + 1: each host holds two thirds, each shard has two hosts.
  const shareOf = (host: number): string =>
    shards
      .filter((_, i) => i % HOSTS === host || (i + 1) % HOSTS === host)
      .map(({ layer, first, last }) => `${layer}:${first}-${last}`)
      .join(',')
  await Promise.all(Array.from({ length: HOSTS }, (_, i) => start(`host-${i + 1}`, shareOf(i), '0', gateway.addresses)))
  console.log(`${daemons.length} processes are up (${seconds()}):`)
  for (const { name, peer, pid } of daemons) console.log(`  ${name.padEnd(8)} pid ${pid}  ${peer}`)

  const status = await waitUntilReady(gateway)
  const [served] = status.models
  console.log(
    `ready: ${served!.coverage.covered} of ${served!.coverage.experts} experts have a host, each at least ${served!.coverage.minReplicas}; every host has answered a call (${seconds()})\n`,
  )

  console.log(`> ${values.prompt}\n`)
  const names = new Map(daemons.map(({ peer, name }) => [peer, name]))
  const report = await streamAnswer(
    { api: gateway.url },
    { model: model.manifest.name, messages: [{ role: 'user', content: values.prompt }], max_tokens: MAX_TOKENS, seed: Number(values.seed) },
  )
  console.log(`\n${describeReport(report, names)}`)
  console.log(`first answer complete after ${seconds()}`)
  if (report.hosts.every((host) => host.peer === gateway.peer || host.calls === 0)) throw new Error('no host served an expert call')
  if (!report.exact) throw new Error('the answer is not exact')

  if (values.once) await shutDown(0)
  console.log(`\nThe swarm keeps running. Ctrl-C stops it.
  dashboard  ${gateway.url}/
  api        ${gateway.url}/v1
  try        curl ${gateway.url}/v1/chat/completions -H 'content-type: application/json' \\
               -d '{"model":"${model.manifest.name}","messages":[{"role":"user","content":"Tell me a fairy tale about a king."}]}'`)
  throw new Error(await ended.promise)
} catch (error) {
  if (!interrupt.signal.aborted) {
    console.error(`\nfailed: ${(error as Error).message}`)
    for (const daemon of daemons) if (daemon.output() !== '') console.error(`--- ${daemon.name}\n${daemon.output()}`)
    await shutDown(1)
  }
}

/** Waits until every expert has a host and every host has answered a call of the gateway. */
async function waitUntilReady(gateway: DaemonProcess): Promise<SwarmStatus> {
  const deadline = performance.now() + READY_TIMEOUT_MS
  for (;;) {
    const status = (await (await fetch(`${gateway.url}/api/swarm`)).json()) as SwarmStatus
    const answered = status.peers.filter((peer) => peer.rttMs !== null).length
    const replicated = status.models.every((model) => model.coverage.minReplicas >= 2)
    if (status.ready && replicated && answered === HOSTS) return status
    if (performance.now() > deadline) {
      const [model] = status.models
      throw new Error(
        `not ready after ${READY_TIMEOUT_MS / 1000} s: ${model?.coverage.covered}/${model?.coverage.experts} experts covered, ${answered}/${HOSTS} hosts answered`,
      )
    }
    const raced = await Promise.race([ended.promise, new Promise<null>((resolve) => setTimeout(() => resolve(null), 100))])
    if (raced !== null) throw new Error(raced)
  }
}
