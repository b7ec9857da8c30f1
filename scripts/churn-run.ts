/** A swarm of real daemons that loses and gains hosts while it answers without pause. */
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { SwarmStatus } from '../node/api/services.ts'
import { readEventStream } from '../node/cli/event-stream.ts'
import { Xoshiro128 } from '../node/engine/random.ts'
import { spawnDaemon } from './daemon-process.ts'
import type { DaemonProcess } from './daemon-process.ts'

export interface ChurnInit {
  /** Empty folder for data directories; what is left in it is the caller's. */
  readonly dir: string
  readonly hosts: number
  /** Share of the model that a host may hold. */
  readonly budget: number
  readonly everyMs: number
  readonly events: number
  /** Questions under way at any time. */
  readonly askers: number
  readonly seed: number
  readonly log: (line: string) => void
  /** Folder for what the daemons log; without it their logs are not kept. */
  readonly logs?: string
}

export interface ChurnResult {
  /** Hosts that were killed or told to stop, and that joined. */
  readonly lost: number
  readonly joined: number
  /** Each time that some expert had fewer than two hosts, as the gateway sees it: how long, in milliseconds. */
  readonly gapsMs: readonly number[]
  readonly answers: number
  /** What went wrong with each answer that failed. */
  readonly failures: readonly string[]
  readonly tokens: number
  /** From starting a host with nothing on its disk until the gateway could call it. */
  readonly usefulMs: readonly number[]
  /** Fewest hosts that any expert had at any time. */
  readonly fewest: number
}

const READY_TIMEOUT_MS = 90_000
const POLL_MS = 100
const MAX_TOKENS = 40
const PROMPTS = ['Once upon a time', 'The little girl went to the park and', 'One day, a big dog', 'There was a king who lived in a castle']
const TARGET = 2

/**
 * Starts a gateway and hosts that place by themselves (`--host auto`), one of which brings the model; then, while askers stream answers
 * without pause, every `everyMs` a host is killed (or told to stop), or a new one with nothing on its disk joins, in turns.
 */
export async function runChurn(init: ChurnInit): Promise<ChurnResult> {
  const { log } = init
  const random = Xoshiro128.fromSeed(init.seed)
  const below = (limit: number): number => Math.floor(random.nextFloat() * limit)
  const common = ['--swarm', `churn-${process.pid}`, '--listen', '/ip4/127.0.0.1/tcp/0', '--no-mdns', '--api-port', '0', '--threads', '1']
  const hosts: DaemonProcess[] = []
  let started = 0
  const logged = (name: string): { logFile?: string } => (init.logs === undefined ? {} : { logFile: join(init.logs, `${name}.log`) })
  const gatewayFlags = [
    ...common,
    '--data',
    join(init.dir, 'gateway'),
    '--host',
    'none',
    '--log',
    init.logs === undefined ? 'error' : 'debug',
  ]
  const gateway = await spawnDaemon(gatewayFlags, logged('gateway'))
  const stopping = new AbortController()
  try {
    const bootstrap = gateway.addresses.flatMap((address) => ['--bootstrap', address])
    const { bytes } = await shardBytes(gateway)
    const budget = ['--ram', String(Math.ceil(bytes * init.budget)), '--disk', String(bytes)]
    const join1 = async (extra: readonly string[] = ['--model', 'none']): Promise<DaemonProcess> => {
      const name = `host-${started++}`
      const data = join(init.dir, name)
      const flags = [...common, '--data', data, '--host', 'auto', ...budget, ...bootstrap, ...extra, '--log', 'info']
      const host = await spawnDaemon(flags, { signal: stopping.signal, ...logged(name) })
      hosts.push(host)
      return host
    }
    await join1(['--model', 'ember'])
    await Promise.all(Array.from({ length: init.hosts - 1 }, () => join1()))
    await recovered(gateway, READY_TIMEOUT_MS)
    log(`${init.hosts} hosts serve every expert twice`)

    const watch = watchCoverage(gateway, stopping.signal)
    const load = Array.from({ length: init.askers }, (_, i) => askOn(gateway, i, stopping.signal, log))
    const usefulMs: number[] = []
    const stopped: Promise<void>[] = []
    for (let event = 0; event < init.events; event++) {
      const at = performance.now()
      if (event % 2 === 0) {
        const [host] = hosts.splice(below(hosts.length), 1)
        const isKilled = event % 6 !== 4
        // Told to stop, it hands over first, which takes as long as it takes.
        if (isKilled) await host!.kill()
        else stopped.push(host!.stop())
        log(`${isKilled ? 'killed a host' : 'told a host to stop'}; fewest hosts of an expert since the last event: ${watch.fewest()}`)
      } else {
        const host = await join1()
        usefulMs.push(await usefulAfter(gateway, host.peer, at))
        log(`a new host was useful after ${(usefulMs.at(-1)! / 1000).toFixed(1)} s`)
      }
      await delay(Math.max(0, init.everyMs - (performance.now() - at)))
    }
    await Promise.all(stopped)
    await recovered(gateway, READY_TIMEOUT_MS)
    stopping.abort(new Error('the run is over'))
    const results = await Promise.all(load)
    return {
      lost: Math.ceil(init.events / 2),
      joined: usefulMs.length,
      gapsMs: watch.gapsMs(),
      answers: results.reduce((sum, { answers }) => sum + answers, 0),
      failures: results.flatMap(({ failures }) => failures),
      tokens: results.reduce((sum, { tokens }) => sum + tokens, 0),
      usefulMs,
      fewest: watch.fewestEver(),
    }
  } finally {
    stopping.abort(new Error('the run is over'))
    await Promise.all([gateway, ...hosts].map((daemon) => daemon.stop()))
    await rm(init.dir, { recursive: true, force: true, maxRetries: 5 })
  }
}

async function statusOf(gateway: DaemonProcess): Promise<SwarmStatus> {
  return (await (await fetch(`${gateway.url}/api/swarm`)).json()) as SwarmStatus
}

async function shardBytes(gateway: DaemonProcess): Promise<{ bytes: number }> {
  // Nobody hosts anything yet: what would complete the model is all of it.
  const [model] = (await statusOf(gateway)).models
  return { bytes: model!.coverage.missingBytes }
}

async function recovered(gateway: DaemonProcess, timeoutMs: number): Promise<void> {
  const deadline = performance.now() + timeoutMs
  for (;;) {
    const { models } = await statusOf(gateway)
    if (models[0]!.coverage.minReplicas >= TARGET) return
    if (performance.now() > deadline) throw new Error(`not every expert had ${TARGET} hosts within ${timeoutMs / 1000} s`)
    await delay(POLL_MS)
  }
}

/** Milliseconds until the gateway has measured the host as one that serves. */
async function usefulAfter(gateway: DaemonProcess, peer: string, since: number): Promise<number> {
  const deadline = performance.now() + READY_TIMEOUT_MS
  while (performance.now() < deadline) {
    const host = (await statusOf(gateway)).peers.find((entry) => entry.peer === peer)
    if (host !== undefined && host.experts > 0 && host.rttMs !== null) return performance.now() - since
    await delay(POLL_MS)
  }
  return Infinity
}

interface Watch {
  /** Least hosts of the rarest expert since the last call. */
  fewest(): number
  fewestEver(): number
  gapsMs(): number[]
}

/** Watches how many hosts the rarest expert has, as the gateway sees it. */
function watchCoverage(gateway: DaemonProcess, signal: AbortSignal): Watch {
  const gaps: number[] = []
  let gapSince: number | null = null
  let lately = Infinity
  let ever = Infinity
  void (async () => {
    while (!signal.aborted) {
      const status = await statusOf(gateway).catch(() => null)
      const least = status?.models[0]?.coverage.minReplicas
      if (least !== undefined) {
        const now = performance.now()
        lately = Math.min(lately, least)
        ever = Math.min(ever, least)
        if (least < TARGET) gapSince ??= now
        else if (gapSince !== null) {
          gaps.push(now - gapSince)
          gapSince = null
        }
      }
      await delay(POLL_MS)
    }
  })()
  return {
    fewest: () => {
      const least = lately
      lately = Infinity
      return least
    },
    fewestEver: () => ever,
    gapsMs: () => (gapSince === null ? gaps : [...gaps, performance.now() - gapSince]),
  }
}

/** Asks one question after the other until the signal; an answer that breaks off, errs or is not exact has failed. */
async function askOn(
  gateway: DaemonProcess,
  asker: number,
  signal: AbortSignal,
  log: (line: string) => void,
): Promise<{ answers: number; failures: string[]; tokens: number }> {
  const failures: string[] = []
  let answers = 0
  let tokens = 0
  for (let question = 0; !signal.aborted; question++) {
    const prompt = PROMPTS[(asker + question) % PROMPTS.length]!
    const body = { model: 'ember', prompt, max_tokens: MAX_TOKENS, seed: question, stream: true, stream_options: { include_usage: true } }
    try {
      const response = await fetch(`${gateway.url}/v1/completions`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      })
      if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`)
      let isExact = false
      for await (const data of readEventStream(response)) {
        if (data === '[DONE]') continue
        const chunk = JSON.parse(data) as {
          error?: { message: string }
          skein?: { exact: boolean }
          usage?: { completion_tokens: number } | null
        }
        if (chunk.error !== undefined) throw new Error(chunk.error.message)
        isExact ||= chunk.skein?.exact ?? false
        tokens += chunk.usage?.completion_tokens ?? 0
      }
      if (!isExact) throw new Error('the answer broke off')
      answers++
    } catch (error) {
      if (failures.length === 0) log(`a first answer failed: ${(error as Error).message}`)
      failures.push((error as Error).message)
    }
  }
  return { answers, failures, tokens }
}
