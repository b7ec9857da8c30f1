/** Time of a dispatch plan: 64 hosts, 32 tokens with 8 experts each. */
import { Xoshiro128 } from '../../node/engine/random.ts'
import type { HostCost } from '../../node/router/cost-model.ts'
import { planDispatch } from '../../node/router/dispatch-plan.ts'
import type { DispatchProblem } from '../../node/router/dispatch-plan.ts'
import { benchMain, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { figure } from './figures.ts'

const HOSTS = 64
const TOKENS = 32
const EXPERTS_PER_TOKEN = 8
/** Experts of the layer: all tokens agree on 8 (one sequence's decode at its widest), or choose among as many as OLMoE and Qwen3 have. */
const LAYER_EXPERTS = Object.freeze([8, 64, 128])
/** Hosts that serve an expert. */
const REPLICAS = 4
const MAX_PLAN_US = 200
const WARM_UP_PLANS = 2_000

type Flag = 'plans'

export const dispatchPlanBench: Bench<Flag> = {
  name: 'dispatch-plan',
  defaults: { plans: '2000' },

  run({ seed, flags }) {
    const plans = wholeNumber(flags.plans, 'plans', 1)
    const random = Xoshiro128.fromSeed(seed)
    const cases = LAYER_EXPERTS.map((experts) => ({ experts, times: [] as number[] }))
    for (let plan = -WARM_UP_PLANS; plan < plans; plan++) {
      for (const { experts, times } of cases) {
        const problem = randomProblem(random, experts)
        const startedAt = performance.now()
        planDispatch(problem)
        if (plan >= 0) times.push((performance.now() - startedAt) * 1000)
      }
    }
    return Promise.resolve(
      cases.map(({ experts, times }) =>
        figure(`${HOSTS} hosts, ${TOKENS} tokens × ${EXPERTS_PER_TOKEN} of ${experts} experts`, 'µs', times, { atMost: MAX_PLAN_US }),
      ),
    )
  },
}

function randomProblem(random: Xoshiro128, experts: number): DispatchProblem {
  const below = (limit: number): number => Math.floor(random.nextFloat() * limit)
  const hosts = Array.from({ length: HOSTS }, (_, index): HostCost => ({
    peer: `peer-${index}`,
    local: index === 0,
    overheadUs: index === 0 ? 0 : 200 + below(30_000),
    queueUs: below(500),
    perPickUs: 20 + below(500),
  }))
  const rows = new Map<number, number>()
  for (let token = 0; token < TOKENS; token++) {
    const chosen = new Set<number>()
    while (chosen.size < EXPERTS_PER_TOKEN) chosen.add(below(experts))
    for (const expert of chosen) rows.set(expert, (rows.get(expert) ?? 0) + 1)
  }
  const demands = [...rows].map(([expert, count]) => {
    const holders = new Set<number>()
    while (holders.size < REPLICAS) holders.add(below(HOSTS))
    return { expert, rows: count, holders: [...holders].sort((a, b) => a - b) }
  })
  return { layer: 0, demands, hosts, seed: random.nextUint32() }
}

if (import.meta.main) await benchMain(dispatchPlanBench.name, [dispatchPlanBench])
