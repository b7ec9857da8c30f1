/**
 * Packing a bf16 checkpoint in the shape of OLMoE-1B-7B to q4: rate, memory and CPU of `skein pack` as a process of its own, its checkpoint read
 * from the disk; and what the disk and the encoding loop alone could do.
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { createReadStream } from 'node:fs'
import { open, readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { BF16 } from '../../node/model/dtypes/plain.ts'
import { DEFAULTS as PACK_DEFAULTS } from '../../node/model/pack.ts'
import { quantise } from '../../node/model/quantise.ts'
import { writeSyntheticCheckpoint } from '../synthetic-checkpoint.ts'
import { benchMain, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { figure } from './figures.ts'

const MAIN = fileURLToPath(new URL('../../node/main.ts', import.meta.url))
const CHUNK_BYTES = 4 * 2 ** 20
/** Of the disk's and the loop's own speed. */
const PROBE_BYTES = 2 ** 30
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
    const writes: number[] = []
    const packs: Run[] = []
    for (let run = 0; run < runs; run++) {
      await forgetPages(checkpoint)
      reads.push(bytes / 1e6 / (await readAll(checkpoint)))
      writes.push(PROBE_BYTES / 1e6 / (await writeProbe(join(workspace.dir, 'probe'))))
      await forgetPages(checkpoint)
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
      figure('only writing a file', 'MB/s', writes),
      figure('only decoding bf16 and encoding q4, one thread, no files, of input', 'MB/s', encodingRates()),
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
    for await (const chunk of createReadStream(join(dir, name), { highWaterMark: CHUNK_BYTES })) void chunk
  }
  return (performance.now() - startedAt) / 1000
}

/** Takes a folder's files out of the page cache, where the system can (GNU dd); elsewhere they may be read from memory. */
async function forgetPages(dir: string): Promise<void> {
  for (const name of await readdir(dir)) {
    const path = join(dir, name)
    const file = await open(path, 'r+')
    // Pages that are not on the disk yet stay.
    await file.datasync()
    await file.close()
    spawnSync('dd', [`if=${path}`, 'iflag=nocache', 'count=0'], { stdio: 'ignore' })
  }
}

/** Seconds to write a file and have it on the disk. */
async function writeProbe(path: string): Promise<number> {
  const chunk = new Uint8Array(CHUNK_BYTES).fill(0x5a)
  const startedAt = performance.now()
  const file = await open(path, 'w')
  for (let left = PROBE_BYTES; left > 0; left -= chunk.byteLength) await file.write(chunk)
  await file.datasync()
  const seconds = (performance.now() - startedAt) / 1000
  await file.close()
  await rm(path)
  return seconds
}

/** MB/s of the inner loops alone. */
function encodingRates(): number[] {
  const columns = 2048
  const numbers = new Float32Array(CHUNK_BYTES / 2)
  const halves = Uint16Array.from(
    { length: numbers.length },
    () => ((Math.random() < 0.5 ? 0x8000 : 0) | 0x3c00) + Math.floor(Math.random() * 0x200),
  )
  const bytes = new Uint8Array(halves.buffer)
  const rates: number[] = []
  for (let done = 0; done < PROBE_BYTES; done += CHUNK_BYTES) {
    const startedAt = performance.now()
    BF16.decode(bytes, 0, halves.length, numbers, 0)
    quantise(numbers, numbers.length / columns, columns, 4, PACK_DEFAULTS.block)
    rates.push(CHUNK_BYTES / 1000 / (performance.now() - startedAt))
  }
  return rates
}

if (import.meta.main) await benchMain(packBench.name, [packBench])
