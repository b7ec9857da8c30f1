import { writeFile } from 'node:fs/promises'
import { cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { figureTable } from './figure-table.ts'
import type { Figure } from './figures.ts'
import { Workspace } from './workspace.ts'

export interface BenchInit<Flag extends string = string> {
  readonly workspace: Workspace
  readonly seed: number
  readonly flags: Readonly<Record<Flag, string>>
}

/** One bench: what `node scripts/bench/<name>.ts` runs. */
export interface Bench<Flag extends string = string> {
  readonly name: string
  /** Its flags and their defaults, beside --seed and --json. */
  readonly defaults: Readonly<Record<Flag, string>>
  run(init: BenchInit<Flag>): Promise<readonly Figure[]>
}

const DEFAULT_SEED = '1'
const EXIT_USAGE = 2
const EXIT_INTERRUPTED = 130

/** Reads the command line, runs the benches one after the other, prints a table of each, and writes `--json <file>`. Ends the process. */
export async function benchMain(name: string, benches: readonly Bench[]): Promise<never> {
  // Benches have flags of the same name with other defaults, so together they take only what all have.
  const values = readFlags(benches.length === 1 ? benches[0]!.defaults : {})
  const results: Record<string, readonly Figure[]> = {}
  let workspace: Workspace | null = null
  let interrupted = false
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (interrupted) process.exit(EXIT_INTERRUPTED)
      interrupted = true
      console.error('\nstopping …')
      void (workspace?.close() ?? Promise.resolve()).finally(() => process.exit(EXIT_INTERRUPTED))
    })
  }
  try {
    const seed = wholeNumber(values['seed']!, 'seed', 0)
    for (const bench of benches) {
      console.log(`${bench.name}, seed ${seed} …`)
      workspace = await Workspace.open()
      const figures = await bench.run({ workspace, seed, flags: { ...bench.defaults, ...values } })
      results[bench.name] = figures
      await workspace.close()
      console.log(`${figureTable(figures)}\n`)
    }
    const file = values['json']!
    if (file !== '') {
      const [cpu] = cpus()
      const machine = { cpus: cpus().length, model: cpu?.model ?? 'unknown', node: process.version }
      const report = { bench: name, seed, machine, when: new Date().toISOString(), results: results[name] ?? results }
      await writeFile(file, `${JSON.stringify(report, null, 2)}\n`)
    }
  } catch (error) {
    // Whatever fails while everything is being stopped fails because of that; the signal's handler ends the process.
    if (interrupted) return await new Promise<never>(() => {})
    await workspace?.close()
    console.error(error instanceof UsageError ? error.message : `failed: ${(error as Error).stack}`)
    process.exit(error instanceof UsageError ? EXIT_USAGE : 1)
  }
  // Ended, not left to end: idle connections of the bench's HTTP client would keep the process for seconds.
  process.exit(0)
}

/** A flag that counts something. Throws what ends the bench with one sentence when it is no such number. */
export function wholeNumber(text: string, flag: string, least: number): number {
  const value = Number(text)
  if (text.trim() !== '' && Number.isSafeInteger(value) && value >= least) return value
  throw new UsageError(`--${flag} ${text}: use a whole number of at least ${least}`)
}

/** A flag that is one of a few words. Throws as {@link wholeNumber}. */
export function oneOf<Word extends string>(text: string, flag: string, words: readonly Word[]): Word {
  const word = words.find((known) => known === text)
  if (word === undefined) throw new UsageError(`--${flag} ${text}: use ${words.join(' or ')}`)
  return word
}

class UsageError extends Error {}

function readFlags(defaults: Readonly<Record<string, string>>): Record<string, string> {
  const known = { seed: DEFAULT_SEED, json: '', ...defaults }
  try {
    const options = Object.fromEntries(Object.entries(known).map(([flag, value]) => [flag, { type: 'string' as const, default: value }]))
    return { ...known, ...parseArgs({ options }).values }
  } catch (error) {
    const flags = Object.entries(known).map(([flag, value]) => `--${flag} ${value}`.trim())
    console.error(`${(error as Error).message}\nflags and their defaults: ${flags.join('  ')}`)
    process.exit(EXIT_USAGE)
  }
}
