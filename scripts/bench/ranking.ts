/** Choice of replicas in a swarm of which a fifth is slow and a fifth lies: how much worse than knowing everything. */
import { Xoshiro128 } from '../../node/engine/random.ts'
import { benchMain, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { figure } from './figures.ts'
import type { Figure } from './figures.ts'
import { HostSimulator } from './host-simulator.ts'
import { createRanker } from './rankers.ts'
import type { RankerName } from './rankers.ts'

const HOSTS = 50
const SLOW_SHARE = 0.2
const LYING_SHARE = 0.2
const EXPERTS = 256
const REPLICAS = 6
const RANKERS: readonly RankerName[] = ['skein', 'skein without the ledger', 'average only', 'random']
/** The first calls, in which a driver that joins knows least. */
const FIRST_CALLS = 100
/** A call waits for nothing else: the simulation's clock goes on by its latency. */
const MAX_ATTEMPTS = 6

type Flag = 'calls' | 'worlds'

export const rankingBench: Bench<Flag> = {
  name: 'ranking',
  defaults: { calls: '6000', worlds: '40' },

  run({ seed, flags }) {
    const calls = wholeNumber(flags.calls, 'calls', 2 * FIRST_CALLS)
    const worlds = wholeNumber(flags.worlds, 'worlds', 1)
    const regrets = new Map(RANKERS.map((ranker) => [ranker, { all: [] as number[], first: [] as number[], refused: [] as number[] }]))
    const best: number[] = []
    for (let world = 0; world < worlds; world++) {
      const oracle = play('oracle', seed + world, calls)
      best.push(mean(oracle.latenciesUs) / 1000)
      for (const ranker of RANKERS) {
        const { latenciesUs, refused } = play(ranker, seed + world, calls)
        const { all, first, refused: shares } = regrets.get(ranker)!
        all.push((mean(latenciesUs) / mean(oracle.latenciesUs) - 1) * 100)
        first.push((mean(latenciesUs.slice(0, FIRST_CALLS)) / mean(oracle.latenciesUs.slice(0, FIRST_CALLS)) - 1) * 100)
        shares.push((100 * refused) / calls)
      }
    }
    const figures: Figure[] = [figure('oracle: mean latency of a call', 'ms', best)]
    for (const [ranker, { all, first, refused }] of regrets) {
      figures.push(figure(`${ranker}: regret against the oracle`, '%', all))
      figures.push(figure(`${ranker}: of the first ${FIRST_CALLS} calls`, '%', first))
      figures.push(figure(`${ranker}: calls refused on the way`, '%', refused))
    }
    return Promise.resolve(figures)
  },
}

/** One driver's calls in one world; halfway through it a tenth of the hosts change. The same seed makes the same world for every ranker. */
function play(name: RankerName, seed: number, calls: number): { readonly latenciesUs: readonly number[]; readonly refused: number } {
  const worldInit = { hosts: HOSTS, slowShare: SLOW_SHARE, lyingShare: LYING_SHARE, experts: EXPERTS, replicas: REPLICAS }
  const simulator = new HostSimulator({ ...worldInit, random: Xoshiro128.fromSeed(seed) })
  let nowMs = 0
  const ranker = createRanker(name, simulator, Xoshiro128.fromSeed(seed + 1_000_003), () => nowMs)
  const latenciesUs: number[] = []
  let refused = 0
  for (let n = 0; n < calls; n++) {
    if (n === Math.floor(calls / 2)) simulator.drift()
    const expert = simulator.nextExpert()
    const tried: number[] = []
    let totalUs = 0
    for (;;) {
      const host = ranker.choose(expert, 1, tried)
      const call = simulator.call(simulator.hosts[host]!, expert, 1)
      ranker.called(host, expert, 1, call)
      totalUs += call.latencyUs
      nowMs += call.latencyUs / 1000
      if (call.isAnswered || tried.length === MAX_ATTEMPTS) break
      refused++
      tried.push(host)
    }
    latenciesUs.push(totalUs)
  }
  return { latenciesUs, refused }
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}

if (import.meta.main) await benchMain(rankingBench.name, [rankingBench])
