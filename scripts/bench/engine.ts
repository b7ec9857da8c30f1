/**
 * Skein's engine on a synthetic model in the shape of OLMoE-1B-7B (q4; 4.25 bits per weight in blocks of 128): decode (of one sequence and of eight) and prefill of
 * one process with one and two threads, of a swarm on loopback, memory and loading of shards; and llama.cpp on random weights of the same
 * shape, in turns with it: in MXFP4, 4.25 bits too, or what `--gguf` says.
 *
 * llama.cpp's side: `npm install node-llama-cpp` in a folder outside this repository, then `--llama <that folder>`.
 */
import { readFile } from 'node:fs/promises'
import { availableParallelism } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { BLOCKS } from '../../node/model/layout.ts'
import type { ModelPackage } from '../../node/model/package.ts'
import type { DaemonProcess } from '../daemon-process.ts'
import { benchMain, oneOf, wholeNumber } from './bench.ts'
import type { Bench, BenchInit } from './bench.ts'
import { LOAD_BYTES, startEngineChild } from './engine-child.ts'
import type { EngineChild } from './engine-child.ts'
import { figure, ratios } from './figures.ts'
import type { Figure } from './figures.ts'
import { complete, daemonFlags, hostFlag, LAYOUTS, shareOfHost, waitUntilReady } from './loopback-swarm.ts'
import { ensureSyntheticGguf, GGUF_QUANTS } from './synthetic-gguf.ts'
import { ensureSyntheticModel } from './synthetic-model.ts'

type Flag = 'dir' | 'layers' | 'block' | 'rounds' | 'hosts' | 'layout' | 'llama' | 'gguf' | 'threads'
type Init = BenchInit<Flag>

const PROMPT_TOKENS = 128
const ANSWER_TOKENS = 24
/** Sequences that decode together. */
const SEQUENCES = 8
const WARM_UP_ROUNDS = 1
/** V8's last compiler takes what has run 3,000 times, and a host is called for every third layer of a token: with all rounds, some 4,000 times. */
const SWARM_WARM_UP_ROUNDS = 32
const MIN_DECODE_RATIO = 0.8
const MIN_PREFILL_RATIO = 1.2
const MIN_SWARM_RATIO = 0.8
const MAX_RESIDENT_RATIO = 1.15
const MAX_LOAD_MS = 50
/** Until what is released has gone back to the system. */
const REST_MS = 2_000

export const engineBench: Bench<Flag> = {
  name: 'engine',
  defaults: { dir: '', layers: '16', block: '128', rounds: '4', hosts: '4', layout: 'layers', llama: '', gguf: 'mxfp4', threads: '1,2' },

  async run(init) {
    const layers = wholeNumber(init.flags.layers, 'layers', 1)
    const dir = init.flags.dir === '' ? init.workspace.dir : resolve(init.flags.dir)
    const storeDir = join(dir, 'blobs')
    const block = Number(oneOf(init.flags.block, 'block', BLOCKS.map(String)))
    const model = await ensureSyntheticModel(createBlobStore({ dir: storeDir }), { seed: init.seed, layers, block })
    const figures = await shardFigures(init, storeDir, model)
    for (const threads of init.flags.threads.split(',')) {
      figures.push(...(await speedFigures(init, { dir, storeDir, model, layers, threads: wholeNumber(threads, 'threads', 1) })))
    }
    if (init.flags.hosts !== '0') figures.push(...(await swarmFigures(init, storeDir, model)))
    return figures
  },
}

/** What shards cost: one per layer, opened and closed, with one thread and with as many as a node takes by default. */
async function shardFigures({ workspace, seed }: Init, storeDir: string, model: ModelPackage): Promise<Figure[]> {
  const figures: Figure[] = []
  for (const threads of new Set([1, availableParallelism()])) {
    const child = startEngineChild(workspace, './engine-process.ts', [storeDir, model.manifest.name, String(seed)])
    const samples = (await child.ask({ op: 'shards', threads })) as [number, number, number, number, ...number[]]
    await child.end()
    const [bytes, before, used, after, ...loads] = samples
    const what = threads === 1 ? '1 thread' : `${threads} threads`
    figures.push(
      figure(`load a shard, ${what}`, 'ms/30 MB', loads, { atMost: MAX_LOAD_MS }),
      figure(`resident memory of shards to their bytes, ${what}`, '×', [(used - before) / bytes], { atMost: MAX_RESIDENT_RATIO }),
      figure(`resident memory kept after unloading them, ${what}`, '×', [(after - before) / bytes]),
    )
  }
  return figures
}

/** One process each side, in turns. */
async function speedFigures(
  { workspace, seed, flags }: Init,
  at: { dir: string; storeDir: string; model: ModelPackage; layers: number; threads: number },
): Promise<Figure[]> {
  const { threads } = at
  const skein = startEngineChild(workspace, './engine-process.ts', [at.storeDir, at.model.manifest.name, String(seed)])
  const sides: Record<string, EngineChild> = { skein }
  if (flags.llama !== '') {
    const quant = oneOf(flags.gguf, 'gguf', GGUF_QUANTS)
    const file = join(at.dir, `synthetic-olmoe-${at.layers}-${seed}-${quant}.gguf`)
    await ensureSyntheticGguf(file, { seed, layers: at.layers, quant })
    sides['llama.cpp'] = startEngineChild(workspace, './llama-process.ts', [resolve(flags.llama), file, String(seed)])
  }
  const prefill: Record<string, number[]> = {}
  const decode: Record<string, number[]> = {}
  const together: Record<string, number[]> = {}
  for (const child of Object.values(sides)) await child.ask({ op: 'open', threads })
  for (let round = -WARM_UP_ROUNDS; round < wholeNumber(flags.rounds, 'rounds', 1); round++) {
    // Each side goes first in every other round.
    const order = Object.entries(sides)
    for (const [side, child] of round % 2 === 0 ? order : order.reverse()) {
      const promptMs = await child.ask({ op: 'prefill', tokens: PROMPT_TOKENS })
      const answerMs = await child.ask({ op: 'decode', tokens: ANSWER_TOKENS })
      const togetherMs = await child.ask({ op: 'decode-together', sequences: SEQUENCES, tokens: ANSWER_TOKENS })
      if (round < 0) continue
      ;(prefill[side] ??= []).push(...promptMs.map((ms) => (1000 * PROMPT_TOKENS) / ms))
      ;(decode[side] ??= []).push(...answerMs.map((ms) => 1000 / ms))
      ;(together[side] ??= []).push(...togetherMs.map((ms) => (1000 * SEQUENCES) / ms))
    }
  }
  for (const child of Object.values(sides)) await child.end()
  const what = `${threads} ${threads === 1 ? 'thread' : 'threads'}`
  const figures: Figure[] = []
  for (const [side, rates] of Object.entries(decode)) figures.push(figure(`decode, ${side}, ${what}`, 'tokens/s', rates))
  for (const [side, rates] of Object.entries(prefill)) figures.push(figure(`prefill ${PROMPT_TOKENS}, ${side}, ${what}`, 'tokens/s', rates))
  for (const [side, rates] of Object.entries(together)) {
    figures.push(figure(`decode of ${SEQUENCES} sequences together, ${side}, ${what}`, 'tokens/s', rates))
  }
  const llama = 'llama.cpp'
  if (decode[llama] !== undefined && prefill[llama] !== undefined && together[llama] !== undefined) {
    figures.push(...ratios(`decode, Skein to llama.cpp, ${what}`, decode['skein']!, decode[llama], { atLeast: MIN_DECODE_RATIO }))
    figures.push(...ratios(`decode of ${SEQUENCES} sequences, Skein to llama.cpp, ${what}`, together['skein']!, together[llama]))
    figures.push(...ratios(`prefill, Skein to llama.cpp, ${what}`, prefill['skein']!, prefill[llama], { atLeast: MIN_PREFILL_RATIO }))
  }
  return figures
}

/**
 * Daemons: one that has everything, against a gateway that hosts nothing and hosts that have no trunk and every shard twice; one thread each.
 * How long taking up a shard takes in a daemon that has just started. What the hosts' processes take of memory: without shards, with them,
 * and how much of it goes with the shards once they have served.
 */
async function swarmFigures({ workspace, flags, seed }: Init, storeDir: string, model: ModelPackage): Promise<Figure[]> {
  const hostCount = wholeNumber(flags.hosts, 'hosts', 1)
  const layout = oneOf(flags.layout, 'layout', LAYOUTS)
  const replicas = Math.min(2, hostCount)
  const { name } = model.manifest
  const start = (member: string, host: string, more: readonly string[]): Promise<DaemonProcess> => {
    const swarm = member === 'one' ? 'bench-engine-one' : 'bench-engine'
    const fixed = daemonFlags({ swarm, dataDir: join(workspace.dir, member), host })
    return workspace.spawn([...fixed, '--store', storeDir, ...more])
  }
  const one = await start('one', 'all', ['--model', name])
  const gateway = await start('gateway', 'none', ['--model', name])
  const hosts: DaemonProcess[] = []
  const shares = Array.from({ length: hostCount }, (_, host) => shareOfHost(model.manifest, { host, hosts: hostCount, layout, replicas }))
  const idle: number[] = []
  const taken: number[] = []
  for (const [i, share] of shares.entries()) {
    const bootstrap = gateway.addresses.flatMap((address) => ['--bootstrap', address])
    const host = await start(`host-${i}`, 'none', ['--model', 'none', ...bootstrap])
    idle.push(await residentBytes(host.pid))
    const startedAt = performance.now()
    await hold(host, name, hostFlag(share))
    taken.push((performance.now() - startedAt) / (share.reduce((sum, shard) => sum + shard.bytes, 0) / LOAD_BYTES))
    hosts.push(host)
  }
  await waitUntilReady(gateway, { hosts: hostCount, replicas })
  const sides = { one, swarm: gateway }
  const decode = { one: [] as number[], swarm: [] as number[] }
  for (let round = -SWARM_WARM_UP_ROUNDS; round < wholeNumber(flags.rounds, 'rounds', 1); round++) {
    for (const side of round % 2 === 0 ? (['one', 'swarm'] as const) : (['swarm', 'one'] as const)) {
      const prompt = `${seed} and ${round}`
      const { report, completionTokens } = await complete(sides[side], { model: name, prompt, maxTokens: ANSWER_TOKENS })
      if (round >= 0) decode[side].push((1000 * (completionTokens - 1)) / report.timeMs.decode)
    }
  }
  const resident = await Promise.all(hosts.map(({ pid }) => residentBytes(pid)))
  for (const [i, host] of hosts.entries()) await changeHoldings(host, 'release', { model: name, what: hostFlag(shares[i]!), force: true })
  await delay(REST_MS)
  const without = await Promise.all(hosts.map(({ pid }) => residentBytes(pid)))
  const held = shares.map((share) => share.reduce((sum, shard) => sum + shard.bytes, 0))
  return [
    figure('decode, one daemon', 'tokens/s', decode.one),
    figure(`decode, ${hostCount} hosts`, 'tokens/s', decode.swarm),
    ...ratios('decode, swarm to one daemon', decode.swarm, decode.one, { atLeast: MIN_SWARM_RATIO }),
    figure('take up a shard in a daemon: open, test, announce', 'ms/30 MB', taken),
    figure(
      'resident memory of a host process without shards',
      'MiB',
      idle.map((bytes) => bytes / 2 ** 20),
    ),
    figure(
      'what its shards take of it once it has served, to their bytes',
      '×',
      resident.map((bytes, i) => (bytes - without[i]!) / held[i]!),
      { atMost: MAX_RESIDENT_RATIO },
    ),
    figure(
      'the whole process to the bytes of its shards',
      '×',
      resident.map((bytes, i) => bytes / held[i]!),
    ),
    figure(
      'shards of a host',
      'MiB',
      held.map((bytes) => bytes / 2 ** 20),
    ),
  ]
}

/** Has a daemon take up shards; resolves when it serves them all. */
async function hold(daemon: DaemonProcess, model: string, what: string): Promise<void> {
  await changeHoldings(daemon, 'hold', { model, what, pin: false })
}

async function changeHoldings(
  daemon: DaemonProcess,
  how: 'hold' | 'release',
  asked: Readonly<Record<string, string | boolean>>,
): Promise<void> {
  const headers = { 'content-type': 'application/json' }
  const response = await fetch(`${daemon.url}/api/${how}`, { method: 'POST', headers, body: JSON.stringify(asked) })
  const events = await response.text()
  if (!/"kind":"end","done":\d+,"failed":0/.test(events)) throw new Error(`${daemon.name}, ${how}: ${events.slice(-500)}`)
}

async function residentBytes(pid: number): Promise<number> {
  const [, kilobytes] = /^VmRSS:\s+(\d+)/m.exec(await readFile(`/proc/${pid}/status`, 'utf8')) ?? []
  return Number(kilobytes) * 1024
}

if (import.meta.main) await benchMain(engineBench.name, [engineBench])
