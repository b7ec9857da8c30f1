import { bitmapOf } from '../../crdt/index.ts'
import type { AuthorView, LedgerView } from '../../crdt/index.ts'
import { MergedView } from '../../crdt/view.ts'
import { Holders } from '../../node/driver/holders.ts'
import type { Xoshiro128 } from '../../node/engine/random.ts'
import { CostModel } from '../../node/router/cost-model.ts'
import { planDispatch } from '../../node/router/dispatch-plan.ts'
import { NO_PRIOR } from '../../node/router/host-estimate.ts'
import type { HostSimulator, SimulatedCall } from './host-simulator.ts'

/** A way to choose a replica. */
export interface Ranker {
  /** Index of the host to call for the expert; `tried` ones refused this call already. */
  choose(expert: number, picks: number, tried: readonly number[]): number
  called(host: number, expert: number, picks: number, call: SimulatedCall): void
}

export type RankerName = 'skein' | 'skein without the ledger' | 'average only' | 'random' | 'oracle'

/** `now`: milliseconds of the simulation. */
export function createRanker(name: RankerName, simulator: HostSimulator, random: Xoshiro128, now: () => number): Ranker {
  switch (name) {
    case 'skein':
      return new SkeinRanker(simulator, random, now, true)
    case 'skein without the ledger':
      return new SkeinRanker(simulator, random, now, false)
    case 'average only':
      return new AverageRanker(simulator)
    case 'random':
      return {
        choose: (expert, _, tried) => {
          const open = untried(simulator, expert, tried)
          return open[Math.floor(random.nextFloat() * open.length)]!
        },
        called: () => undefined,
      }
    case 'oracle':
      return {
        choose: (expert, picks, tried) =>
          least(untried(simulator, expert, tried), (host) => simulator.expectedUs(simulator.hosts[host]!, expert, picks)),
        called: () => undefined,
      }
  }
}

const MODEL = 'm'

/** The node's own code: denials, cost model, priors, backoff, plan with its exploration. */
class SkeinRanker implements Ranker {
  readonly #simulator: HostSimulator
  readonly #random: Xoshiro128
  readonly #costs: CostModel
  readonly #holders: Holders
  readonly #usesLedger: boolean
  /** Calls answered and refused, per host: what a driver's long memory has. */
  readonly #memory: { calls: number; badCalls: number }[]

  constructor(simulator: HostSimulator, random: Xoshiro128, now: () => number, usesLedger: boolean) {
    this.#simulator = simulator
    this.#random = random
    this.#costs = new CostModel(now)
    const view = viewOf(simulator)
    this.#holders = new Holders({ self: '', view: () => view, holdsLocally: () => false, isLinked: () => true, linkChanges: () => 0, now })
    this.#usesLedger = usesLedger
    this.#memory = simulator.hosts.map(() => ({ calls: 0, badCalls: 0 }))
  }

  choose(expert: number, picks: number, tried: readonly number[]): number {
    const believed = this.#holders.candidates(MODEL).filter((candidate) => candidate.holds(0, expert))
    const left = untried(this.#simulator, expert, tried)
    const held = left.filter((host) => believed.some(({ peer }) => peer === this.#simulator.hosts[host]!.peer))
    const open = held.length > 0 ? held : left
    const rested = open.filter((host) => this.#costs.backoffMs(this.#simulator.hosts[host]!.peer) === 0)
    const fit = rested.length > 0 ? rested : open
    const hosts = fit.map((host) => {
      const { peer, stated } = this.#simulator.hosts[host]!
      return this.#costs.cost(peer, false, { ...(this.#usesLedger ? stated : NO_PRIOR), ...this.#memory[host]! })
    })
    const demand = { expert, rows: picks, holders: hosts.map((_, i) => i) }
    const [chosen] = planDispatch({ layer: 0, demands: [demand], hosts, seed: 7, exploreSeed: this.#random.nextUint32() })
    return fit[chosen!]!
  }

  called(host: number, expert: number, picks: number, call: SimulatedCall): void {
    const { peer } = this.#simulator.hosts[host]!
    if (call.isAnswered) {
      this.#memory[host]!.calls++
      this.#costs.succeeded(peer, { ...call, picks })
    } else if (this.#holders.deny(peer, MODEL, 0, [expert])) {
      this.#memory[host]!.badCalls++
      this.#costs.contradicted(peer)
    }
  }
}

/** Weight of the latest call. */
const EWMA_WEIGHT = 0.1

/** A moving average of each host's latencies, each host tried once first, and nothing else. */
class AverageRanker implements Ranker {
  readonly #simulator: HostSimulator
  readonly #averages: number[]

  constructor(simulator: HostSimulator) {
    this.#simulator = simulator
    this.#averages = simulator.hosts.map(() => 0)
  }

  choose(expert: number, _: number, tried: readonly number[]): number {
    return least(untried(this.#simulator, expert, tried), (host) => this.#averages[host]!)
  }

  called(host: number, _expert: number, _picks: number, call: SimulatedCall): void {
    const before = this.#averages[host]!
    this.#averages[host] = before === 0 ? call.latencyUs : before + EWMA_WEIGHT * (call.latencyUs - before)
  }
}

/** The ledger as the hosts state it. */
function viewOf(simulator: HostSimulator): LedgerView {
  const nothing = { profile: null, leaving: null, routing: null, service: null, observed: null, updatedAt: 0, expiresAt: Infinity }
  const authors = simulator.hosts.map(({ peer }, i): [string, AuthorView] => {
    const held = simulator.holders.flatMap((hosts, expert) => (hosts.includes(i) ? [expert] : []))
    return [peer, { ...nothing, holdings: new Map([[MODEL, [bitmapOf(held)]]]) }]
  })
  return new MergedView(new Map(authors.sort(([a], [b]) => (a < b ? -1 : 1))))
}

function untried(simulator: HostSimulator, expert: number, tried: readonly number[]): readonly number[] {
  const holders = simulator.holders[expert]!
  const open = holders.filter((host) => !tried.includes(host))
  return open.length > 0 ? open : holders
}

function least(hosts: readonly number[], cost: (host: number) => number): number {
  return hosts.reduce((best, host) => (cost(host) < cost(best) ? host : best))
}
