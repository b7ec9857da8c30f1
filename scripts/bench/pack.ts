/** Packing a bf16 checkpoint in the shape of OLMoE-1B-7B to q4: rate, memory and CPU of `skein pack` as a process of its own. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { writeSyntheticCheckpoint } from '../synthetic-checkpoint.ts'
import { benchMain, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { figure } from './figures.ts'

const MAIN = fileURLToPath(new URL('../../node/main.ts', import.meta.url))
const READ_CHUNK_BYTES = 4 * 2 ** 20
const MIN_RATE_MB = 150
const MAX_MEMORY_MIB = 2048
/** Makes the process tell what it used, threads included. */
const USAGE_HOOK = `data:text/javascript,process.on('exit',()=>console.error('usage '+JSON.stringify(process.resourceUsage())))`

type Flag = 'layers' | 'runs' | 'quant'

export const packBench: Bench<Flag> = {
  name: 'pack',
  defaults: { layers: '8', runs: '3', quant: 'q4' },

  async run({ workspace, seed, flags }) {
    const runs = wholeNumber(flags.runs, 'runs', 1)
    const checkpoint = join(workspace.dir, 'checkpoint')
    const bytes = await writeSyntheticCheckpoint({ dir: checkpoint, layers: wholeNumber(flags.layers, 'layers', 1), seed })
    console.log(`${(bytes / 1e9).toFixed(2)} GB of bf16 weights`)
    const reads: number[] = []
    const packs: Run[] = []
    for (let run = 0; run < runs; run++) {
      reads.push(bytes / 1e6 / (await readAll(checkpoint)))
      const data = join(workspace.dir, 'data')
      packs.push(await pack(checkpoint, data, flags.quant))
      await rm(data, { recursive: true })
    }
    return [
      figure(
        `bf16 to ${flags.quant}, of input`,
        'MB/s',
        packs.map(({ seconds }) => bytes / 1e6 / seconds),
        { atLeast: MIN_RATE_MB },
      ),
      figure('only reading the same files', 'MB/s', reads),
      figure(
        'largest resident memory',
        'MiB',
        packs.map(({ memory }) => memory),
        { atMost: MAX_MEMORY_MIB },
      ),
      figure(
        'CPU per GB of input',
        's',
        packs.map(({ cpu }) => cpu / (bytes / 1e9)),
      ),
      figure(
        'cores kept busy',
        '',
        packs.map(({ cpu, seconds }) => cpu / seconds),
      ),
    ]
  },
}

interface Run {
  readonly seconds: number
  /** MiB. */
  readonly memory: number
  /** Seconds of all threads, in the program and in the system. */
  readonly cpu: number
}

async function pack(checkpoint: string, data: string, quant: string): Promise<Run> {
  const startedAt = performance.now()
  const args = ['--import', USAGE_HOOK, MAIN, 'pack', checkpoint, '--quant', quant, '--name', 'synthetic', '--data', data]
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'ignore', 'pipe'] })
  let errors = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text))
  const [code] = (await once(child, 'close')) as [number | null]
  const usage = /^usage (.*)$/m.exec(errors)?.[1]
  if (code !== 0 || usage === undefined) throw new Error(`skein pack ended with ${code}: ${errors}`)
  const { maxRSS, userCPUTime, systemCPUTime } = JSON.parse(usage) as NodeJS.ResourceUsage
  return { seconds: (performance.now() - startedAt) / 1000, memory: maxRSS / 1024, cpu: (userCPUTime + systemCPUTime) / 1e6 }
}

/** Seconds to read all files of a folder once. */
async function readAll(dir: string): Promise<number> {
  const startedAt = performance.now()
  for (const name of await readdir(dir)) {
    for await (const chunk of createReadStream(join(dir, name), { highWaterMark: READ_CHUNK_BYTES })) void chunk
  }
  return (performance.now() - startedAt) / 1000
}

if (import.meta.main) await benchMain(packBench.name, [packBench])
