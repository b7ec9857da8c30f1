/** Tokens per second of many queries at once against one alone, in one process and in a loopback swarm. */
import { benchMain, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { figure, ratios } from './figures.ts'
import type { Figure } from './figures.ts'
import { complete, packModel, startOneProcess, startSwarm } from './loopback-swarm.ts'
import type { DaemonProcess } from '../daemon-process.ts'
import { shuffledPrompts } from './prompts.ts'

/** Rounds not counted: both sides are still compiling their hot code. */
const WARM_UP_ROUNDS = 2
const TOKENS = 100
/** With eight queries. */
const MIN_RATIO = 3
const BAR_QUERIES = 8

type Flag = 'queries' | 'hosts' | 'rounds' | 'wire' | 'combine'

interface Side {
  readonly daemon: DaemonProcess
  readonly alone: number[]
  readonly together: number[]
  /** Texts by prompt, as asked alone. */
  readonly texts: Map<string, string>
  equal: number
}

export const concurrentBench: Bench<Flag> = {
  name: 'concurrent',
  defaults: { queries: String(BAR_QUERIES), hosts: '4', rounds: '12', wire: 'f16', combine: 'host' },

  async run({ workspace, seed, flags }) {
    const queries = wholeNumber(flags.queries, 'queries', 1)
    const hosts = wholeNumber(flags.hosts, 'hosts', 1)
    const rounds = wholeNumber(flags.rounds, 'rounds', 1)
    const model = await packModel(workspace)
    const skein = { wire: flags.wire, combine: flags.combine }
    const openings = shuffledPrompts(seed)
    // Different from the first word on, so that no query can use what another has computed.
    const promptOf = (number: number): string => `${number}. ${openings[number % openings.length]}`
    let next = 0

    /** Tokens per second of all the prompts together; what is answered twice must be the same. */
    const rateOf = async (side: Side, prompts: readonly string[]): Promise<number> => {
      const startedAt = performance.now()
      const ask = (prompt: string) => complete(side.daemon, { model: model.manifest.name, prompt, maxTokens: TOKENS, skein })
      const answers = await Promise.all(prompts.map(ask))
      const seconds = (performance.now() - startedAt) / 1000
      for (const [i, { text }] of answers.entries()) {
        const known = side.texts.get(prompts[i]!)
        if (known === text) side.equal++
        side.texts.set(prompts[i]!, text)
      }
      return answers.reduce((sum, { completionTokens }) => sum + completionTokens, 0) / seconds
    }
    const measure = async (daemon: DaemonProcess): Promise<Side> => {
      const side: Side = { daemon, alone: [], together: [], texts: new Map(), equal: 0 }
      for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
        const prompts = Array.from({ length: queries }, () => promptOf(next++))
        const alone = await rateOf(side, prompts.slice(0, 1))
        const together = await rateOf(side, prompts)
        if (round < 0) continue
        side.alone.push(alone)
        side.together.push(together)
      }
      return side
    }
    // One after the other: what the daemons of a swarm do while they are asked nothing would be measured as the other's.
    const everything = await startOneProcess(workspace, model)
    const one = await measure(everything)
    await everything.stop()
    const swarm = await measure((await startSwarm(workspace, model, { name: 'swarm', hosts, layout: 'layers' })).gateway)
    const bar = queries === BAR_QUERIES ? { atLeast: MIN_RATIO } : null
    const figuresOf = (side: Side, what: string): Figure[] => [
      figure(`1 query, ${what}`, 'tokens/s', side.alone),
      figure(`${queries} queries, ${what}`, 'tokens/s', side.together),
      ...ratios(`${queries} queries to 1, ${what}`, side.together, side.alone, bar),
      { ...figure(`answers as alone, ${what}`, `of ${rounds + WARM_UP_ROUNDS}`, [side.equal]), p95: null, min: null, max: null },
    ]
    return [...figuresOf(one, 'one process'), ...figuresOf(swarm, `${hosts} hosts`)]
  },
}

if (import.meta.main) await benchMain(concurrentBench.name, [concurrentBench])
