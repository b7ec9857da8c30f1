import { NoRouteError } from '../errors.ts'
import type { HostCost } from './cost-model.ts'

/** One expert of the layer that some rows were routed to. */
export interface ExpertDemand {
  readonly expert: number
  /** Rows routed to it. */
  readonly rows: number
  /** Indexes into `hosts` of those that serve it. */
  readonly holders: readonly number[]
}

export interface DispatchProblem {
  readonly layer: number
  readonly demands: readonly ExpertDemand[]
  readonly hosts: readonly HostCost[]
  /**
   * Decides between hosts of nearly equal cost. A driver keeps one for each layer: a host that is asked for the same experts again has
   * their weights in its caches, while other layers and other drivers favour other hosts.
   */
  readonly seed: number
  /** For each host, a number that stays the same from token to token, by which the seed tells it from its equals; its index where it is missing. */
  readonly places?: readonly number[]
  /** Decides whether the plan explores, and whom; `seed` where it is missing. Equal seeds give equal plans. */
  readonly exploreSeed?: number
}

/** For each demand, in order, the index of the host that serves all its rows. */
export type DispatchPlan = readonly number[]

/** What one more host costs the driver in CPU time: encoding, a frame each way through TLS, a promise (measured on loopback). */
const OPEN_HOST_US = 500
/** A layer waits for its slowest host: what each doubling of their number adds to the expected time (1.18 for two, 1.31 for four hosts of log-normal times with sigma 0.25). */
const TAIL_PER_DOUBLING = 0.17
/**
 * Hosts that cost at most this much more than the best one count as equally good. Load spreads over them, and which is called first says
 * little of them: a host that was idle for a moment answers its first call a millisecond later than one whose caches are warm.
 */
const TIE_SHARE = 0.1
const TIE_US = 1_500
/** One plan in so many tries a host first whatever it seems to cost, unless it seems this much worse than the best: what is never used is never known (scripts/bench/ranking.ts). */
const EXPLORE_ONE_IN = 48
const EXPLORE_FACTOR = 3
const EXPLORE_US = 5_000

/**
 * Who computes what in one layer: minimises the time at which the last host answers, plus a price per host used. All rows of an expert
 * go to one host, so that its weights are read once and its bits do not depend on the split. Two greedy plans are made, one that uses
 * few hosts and one that balances, and two simple ones that greed can miss; the cheapest is taken. Pure. Throws `NoRouteError` for an
 * expert that nobody serves.
 */
export function planDispatch(problem: DispatchProblem): DispatchPlan {
  const { demands, hosts, layer, seed } = problem
  for (const demand of demands) {
    if (demand.holders.length === 0) throw new NoRouteError(layer, demand.expert, 'no live peer announces it')
  }
  // Planned for each layer of each token: where there is nothing to choose, the rest of this would be a tenth of a driver's work.
  if (demands.every(({ holders }) => holders.length === 1)) return demands.map(({ holders }) => holders[0]!)
  const base = tiedCosts(problem)
  const explored = exploredHost(problem.exploreSeed ?? seed, base, demands)
  if (explored === null) return cheapestPlan(demands, hosts, base)
  const rest = cheapestPlan(
    demands.filter((demand) => !demand.holders.includes(explored)),
    hosts,
    base,
  ).values()
  return demands.map((demand) => (demand.holders.includes(explored) ? explored : rest.next().value!))
}

function cheapestPlan(demands: readonly ExpertDemand[], hosts: readonly HostCost[], base: readonly number[]): DispatchPlan {
  let best: readonly number[] = []
  let bestCost = Infinity
  for (const makePlan of [planFewHosts, planBalanced, planOneHost, planApart]) {
    const plan = makePlan(demands, hosts, base)
    if (plan === null) continue
    const cost = planCost(plan, demands, hosts, base)
    if (best.length === 0 || cost < bestCost) {
      best = plan
      bestCost = cost
    }
  }
  return best
}

// Loops instead of closures and maps from here on: with those, planning was a seventh of a driver's main thread between the layers of a token.

/** Repeatedly takes the host that serves the most uncovered rows for its time. */
function planFewHosts(demands: readonly ExpertDemand[], hosts: readonly HostCost[], base: readonly number[]): number[] {
  const plan = filled(demands.length, -1)
  for (let left = demands.length; left > 0;) {
    const rows = filled(hosts.length, 0)
    for (let i = 0; i < demands.length; i++) if (plan[i] === -1) for (const host of demands[i]!.holders) rows[host]! += demands[i]!.rows
    let best = -1
    let bestPrice = Infinity
    for (let host = 0; host < hosts.length; host++) {
      if (rows[host] === 0) continue
      const price = (base[host]! + OPEN_HOST_US + rows[host]! * hosts[host]!.perPickUs) / rows[host]!
      // The first counts whatever its price: a cost that is no number must not leave an expert without a host.
      if (best === -1 || price < bestPrice) {
        bestPrice = price
        best = host
      }
    }
    for (let i = 0; i < demands.length; i++) {
      if (plan[i] !== -1 || !demands[i]!.holders.includes(best)) continue
      plan[i] = best
      left--
    }
  }
  return plan
}

/** Gives each expert, those with most rows first, to the host that would finish it first. */
function planBalanced(demands: readonly ExpertDemand[], hosts: readonly HostCost[], base: readonly number[]): number[] {
  const plan = filled(demands.length, -1)
  const load = filled(hosts.length, 0)
  for (const i of byRows(demands)) {
    const { rows, holders } = demands[i]!
    let best = -1
    let bestTime = Infinity
    for (const host of holders) {
      const time = base[host]! + load[host]! + rows * hosts[host]!.perPickUs + (load[host] === 0 ? OPEN_HOST_US : 0)
      if (best === -1 || time < bestTime) {
        bestTime = time
        best = host
      }
    }
    plan[i] = best
    load[best]! += rows * hosts[best]!.perPickUs
  }
  return plan
}

/** Indexes of the demands, those with most rows first, else in their order. */
function byRows(demands: readonly ExpertDemand[]): number[] {
  const order = demands.map((_, i) => i)
  // One sequence that decodes has one row everywhere.
  const isSorted = demands.every(({ rows }, i) => i === 0 || rows <= demands[i - 1]!.rows)
  return isSorted ? order : order.sort((a, b) => demands[b]!.rows - demands[a]!.rows || a - b)
}

/** Everything to the host that would finish it first; null when nobody holds everything. */
function planOneHost(demands: readonly ExpertDemand[], hosts: readonly HostCost[], base: readonly number[]): number[] | null {
  const held = filled(hosts.length, 0)
  let rows = 0
  for (const demand of demands) {
    rows += demand.rows
    for (const host of demand.holders) held[host]! += demand.rows
  }
  let best = -1
  for (let host = 0; host < hosts.length; host++) {
    if (held[host] !== rows) continue
    if (best === -1 || timeAlone(hosts, base, host, rows) < timeAlone(hosts, base, best, rows)) best = host
  }
  return best === -1 ? null : filled(demands.length, best)
}

/** Each expert to the host that would finish it first if it were alone. */
function planApart(demands: readonly ExpertDemand[], hosts: readonly HostCost[], base: readonly number[]): number[] {
  const plan = filled(demands.length, -1)
  for (let i = 0; i < demands.length; i++) {
    const { rows, holders } = demands[i]!
    let best = holders[0]!
    for (const host of holders) if (timeAlone(hosts, base, host, rows) < timeAlone(hosts, base, best, rows)) best = host
    plan[i] = best
  }
  return plan
}

function timeAlone(hosts: readonly HostCost[], base: readonly number[], host: number, rows: number): number {
  return base[host]! + rows * hosts[host]!.perPickUs
}

function planCost(plan: readonly number[], demands: readonly ExpertDemand[], hosts: readonly HostCost[], base: readonly number[]): number {
  const load = filled(hosts.length, -1)
  for (let i = 0; i < plan.length; i++) {
    const host = plan[i]!
    load[host] = Math.max(0, load[host]!) + demands[i]!.rows * hosts[host]!.perPickUs
  }
  let used = 0
  let last = 0
  for (let host = 0; host < hosts.length; host++) {
    if (load[host] === -1) continue
    used++
    last = Math.max(last, base[host]! + load[host]!)
  }
  return last * (1 + TAIL_PER_DOUBLING * Math.log2(used)) + used * OPEN_HOST_US
}

/** What each host costs before it computes; equally good ones the same, but for the order in which the seed puts them. */
function tiedCosts({ hosts, demands, seed, places }: DispatchProblem): number[] {
  let best = Infinity
  for (const { holders } of demands) {
    for (const host of holders) if (!hosts[host]!.local) best = Math.min(best, expectedUs(hosts[host]!))
  }
  return hosts.map((host, i) => {
    const cost = expectedUs(host)
    return !host.local && cost <= best * (1 + TIE_SHARE) + TIE_US ? best + uniform(seed, places?.[i] ?? i) : cost
  })
}

function expectedUs({ overheadUs, queueUs }: HostCost): number {
  return overheadUs + queueUs
}

/** The host that this plan shall try, if it is one of those that explore. */
function exploredHost(seed: number, base: readonly number[], demands: readonly ExpertDemand[]): number | null {
  if (demands.length === 0 || uniform(seed, -1) * EXPLORE_ONE_IN >= 1) return null
  const useful = [...new Set(demands.flatMap((demand) => demand.holders))].sort((a, b) => a - b)
  const host = useful[Math.floor(uniform(seed, -2) * useful.length)]!
  return base[host]! <= Math.min(...useful.map((other) => base[other]!)) * EXPLORE_FACTOR + EXPLORE_US ? host : null
}

function filled(length: number, value: number): number[] {
  const numbers: number[] = []
  for (let i = 0; i < length; i++) numbers.push(value)
  return numbers
}

/** A number in [0, 1) from two integers (murmur3's finaliser). */
function uniform(seed: number, index: number): number {
  let h = (seed ^ Math.imul(index + 1, 0x9e37_79b1)) >>> 0
  h = Math.imul(h ^ (h >>> 16), 0x85eb_ca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2_ae35)
  return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32
}
