/** Tokens per second of one process against those of a loopback swarm, side by side, and what the mesh adds to a layer. */
import { benchMain, oneOf, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { figure, ratios } from './figures.ts'
import type { Figure } from './figures.ts'
import { complete, LAYOUTS, packModel, startOneProcess, startSwarm } from './loopback-swarm.ts'
import type { Asked } from './loopback-swarm.ts'
import { longPrompt, shuffledPrompts } from './prompts.ts'

/** Rounds not counted: both sides are still compiling their hot code. */
const WARM_UP_ROUNDS = 4
const TOKENS = 100
const MIN_RATIO = 0.4
const MAX_MESH_MS = 0.4

type Flag = 'hosts' | 'layout' | 'rounds' | 'wire' | 'combine'

export const decodeBench: Bench<Flag> = {
  name: 'decode',
  defaults: { hosts: '4', layout: 'layers', rounds: '12', wire: 'f16', combine: 'host' },

  async run({ workspace, seed, flags }) {
    const hosts = wholeNumber(flags.hosts, 'hosts', 1)
    const layout = oneOf(flags.layout, 'layout', LAYOUTS)
    const rounds = wholeNumber(flags.rounds, 'rounds', 1)
    const model = await packModel(workspace)
    const { name, config } = model.manifest
    const one = await startOneProcess(workspace, model)
    const { gateway } = await startSwarm(workspace, model, { name: 'swarm', hosts, layout })
    const sides = { one, swarm: gateway }
    const answers = { one: [] as Asked[], swarm: [] as Asked[] }
    const prefills = { one: [] as Asked[], swarm: [] as Asked[] }
    const prompts = shuffledPrompts(seed)
    const skein = { wire: flags.wire, combine: flags.combine }
    for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
      const prompt = prompts[(round + WARM_UP_ROUNDS) % prompts.length]!
      // Each side goes first in every other round.
      const order = round % 2 === 0 ? (['one', 'swarm'] as const) : (['swarm', 'one'] as const)
      for (const side of order) {
        const answer = await complete(sides[side], { model: name, prompt, maxTokens: TOKENS, skein })
        if (round >= 0) answers[side].push(answer)
      }
      for (const side of order) {
        const prefill = await complete(sides[side], { model: name, prompt: longPrompt(round + WARM_UP_ROUNDS), maxTokens: 1, skein })
        if (round >= 0) prefills[side].push(prefill)
      }
    }
    if (answers.swarm.some(({ report }) => report.calls.remote === 0)) throw new Error('the swarm answered without any remote call')

    const msOne = answers.one.map(msPerToken)
    const msSwarm = answers.swarm.map(msPerToken)
    const rate = (ms: readonly number[]): number[] => ms.map((value) => 1000 / value)
    const callsPerPass = answers.swarm.map(({ report }) => report.calls.remote / report.passes)
    const mesh = answers.swarm.map(({ report }) => report.meshUs!)
    const promptMs = (side: readonly Asked[]): number[] => side.map(({ report }) => report.timeMs.prompt)
    const longTokens = prefills.one[0]!.promptTokens
    const same = answers.one.filter(({ text }, i) => text === answers.swarm[i]!.text).length
    const figures: Figure[] = [
      figure('decode, one process', 'tokens/s', rate(msOne)),
      figure(`decode, ${hosts} hosts`, 'tokens/s', rate(msSwarm)),
      figure('decode, one process', 'ms/token', msOne),
      figure(`decode, ${hosts} hosts`, 'ms/token', msSwarm),
      ...ratios('decode rate, swarm to one process', rate(msSwarm), rate(msOne), { atLeast: MIN_RATIO }),
      figure(
        'mesh per layer, p50 of an answer',
        'ms',
        mesh.map(({ p50 }) => p50 / 1000),
        { atMost: MAX_MESH_MS },
      ),
      figure(
        'mesh per layer, p95 of an answer',
        'ms',
        mesh.map(({ p95 }) => p95 / 1000),
      ),
      figure('expert calls per pass', '', callsPerPass),
      figure(
        'hosts called per layer',
        '',
        callsPerPass.map((calls) => calls / config.layers),
      ),
      figure(`prompt of ${longTokens} tokens, one process`, 'ms', promptMs(prefills.one)),
      figure(`prompt of ${longTokens} tokens, ${hosts} hosts`, 'ms', promptMs(prefills.swarm)),
      ...ratios('prompt time, swarm to one process', promptMs(prefills.swarm), promptMs(prefills.one)),
      { what: 'answers equal to one process', unit: `of ${rounds}`, n: rounds, median: same, p95: null, min: null, max: null, bar: null },
    ]
    return figures
  },
}

/** Of the passes that decode: the first token comes out of the prompt's. */
function msPerToken({ report, completionTokens }: Asked): number {
  return report.timeMs.decode / (completionTokens - 1)
}

if (import.meta.main) await benchMain(decodeBench.name, [decodeBench])
