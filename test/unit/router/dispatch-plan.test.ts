import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { HostCost } from '../../../node/router/cost-model.ts'
import { planDispatch } from '../../../node/router/dispatch-plan.ts'
import type { DispatchPlan, DispatchProblem, ExpertDemand } from '../../../node/router/dispatch-plan.ts'

const SEEDS = Array.from({ length: 200 }, (_, i) => i)

const host = (fields: Partial<HostCost> = {}): HostCost => ({
  peer: 'p',
  local: false,
  overheadUs: 1000,
  queueUs: 0,
  perPickUs: 10,
  ...fields,
})

/** `count` experts of `rows` rows each that all hosts hold. */
const heldByAll = (count: number, rows: number, hosts: readonly HostCost[]): ExpertDemand[] =>
  Array.from({ length: count }, (_, expert) => ({ expert, rows, holders: hosts.map((_, i) => i) }))

const plansOf = (problem: Omit<DispatchProblem, 'seed' | 'layer'>): DispatchPlan[] =>
  SEEDS.map((seed) => planDispatch({ ...problem, layer: 0, seed }))

/** The plan of most seeds: a few try a host for the sake of trying it. */
function usualPlan(problem: Omit<DispatchProblem, 'seed' | 'layer'>): DispatchPlan {
  const seen = new Map<string, number>()
  for (const plan of plansOf(problem)) seen.set(plan.join(), (seen.get(plan.join()) ?? 0) + 1)
  const [most] = [...seen].sort((a, b) => b[1] - a[1])
  return most![0].split(',').map(Number)
}

/** How many hosts a plan uses, and when the last of them is expected to answer. */
function figures(plan: DispatchPlan, { demands, hosts }: Pick<DispatchProblem, 'demands' | 'hosts'>): { hosts: number; lastUs: number } {
  const times = new Map<number, number>()
  plan.forEach((index, i) => {
    const { overheadUs, queueUs, perPickUs } = hosts[index]!
    times.set(index, (times.get(index) ?? overheadUs + queueUs) + demands[i]!.rows * perPickUs)
  })
  return { hosts: times.size, lastUs: Math.max(...times.values()) }
}

/** Problems of a few hosts and experts; `local` for costs without the spread over equal hosts. */
const problems = (local: boolean): fc.Arbitrary<Omit<DispatchProblem, 'seed' | 'layer'>> =>
  fc.integer({ min: 1, max: 6 }).chain((hostCount) =>
    fc.record({
      hosts: fc.array(
        fc.record({
          peer: fc.constant('p'),
          local: fc.constant(local),
          overheadUs: fc.nat(5000),
          queueUs: fc.nat(1000),
          perPickUs: fc.nat(1000),
        }),
        { minLength: hostCount, maxLength: hostCount },
      ),
      demands: fc.array(
        fc.record({
          expert: fc.nat(127),
          rows: fc.integer({ min: 1, max: 32 }),
          holders: fc.uniqueArray(fc.nat(hostCount - 1), { minLength: 1 }),
        }),
        { maxLength: 8 },
      ),
    }),
  )

test('every expert goes to a host that holds it, whatever the problem and the seed', () => {
  fc.assert(
    fc.property(problems(false), fc.integer(), (problem, seed) => {
      const plan = planDispatch({ ...problem, layer: 0, seed })
      assert.equal(plan.length, problem.demands.length)
      plan.forEach((index, i) => assert.ok(problem.demands[i]!.holders.includes(index)))
    }),
  )
})

test('equal seeds give equal plans', () => {
  fc.assert(
    fc.property(problems(false), fc.integer(), (problem, seed) => {
      assert.deepEqual(planDispatch({ ...problem, layer: 0, seed }), planDispatch(structuredClone({ ...problem, layer: 0, seed })))
    }),
  )
})

test('no simple plan is as small and quicker: all on one host, each expert at its quickest', () => {
  fc.assert(
    fc.property(problems(true), (problem) => {
      const { demands, hosts } = problem
      fc.pre(demands.length > 0)
      const planned = figures(usualPlan(problem), problem)
      const alone = (index: number, rows: number): number =>
        hosts[index]!.overheadUs + hosts[index]!.queueUs + rows * hosts[index]!.perPickUs
      const simple = [
        demands.map(({ rows, holders }) => holders.reduce((best, index) => (alone(index, rows) < alone(best, rows) ? index : best))),
        ...hosts.flatMap((_, index) => (demands.every(({ holders }) => holders.includes(index)) ? [demands.map(() => index)] : [])),
      ]
      for (const plan of simple) {
        const other = figures(plan, problem)
        assert.ok(
          planned.hosts < other.hosts || planned.lastUs <= other.lastUs + 1e-6,
          `${JSON.stringify(planned)} is beaten by ${plan.join()}: ${JSON.stringify(other)}`,
        )
      }
    }),
  )
})

test('a favourite among equals stays the favourite when others beside them come and go', () => {
  const [equal, other] = [host(), host({ overheadUs: 90_000 })]
  const favourites = SEEDS.map((seed) => {
    const alone = planDispatch({
      layer: 0,
      demands: heldByAll(3, 1, [equal, equal]),
      hosts: [equal, equal],
      places: [1, 2],
      seed,
      exploreSeed: 1,
    })
    const beside = {
      layer: 0,
      demands: heldByAll(3, 1, [other, equal, equal]),
      hosts: [other, equal, equal],
      places: [0, 1, 2],
      seed,
      exploreSeed: 1,
    }
    assert.deepEqual(
      planDispatch(beside).map((index) => index - 1),
      alone,
    )
    return alone[0]
  })
  assert.deepEqual(new Set(favourites), new Set([0, 1]))
})

test('an expert that nobody serves is named with its layer', () => {
  const hosts = [host()]
  const demands = [...heldByAll(2, 1, hosts), { expert: 17, rows: 1, holders: [] }]
  assert.throws(() => planDispatch({ layer: 3, demands, hosts, seed: 0 }), { name: 'NoRouteError', layer: 3, expert: 17 })
})

test('a layer that routes nothing needs nobody', () => {
  assert.deepEqual(planDispatch({ layer: 0, demands: [], hosts: [], seed: 0 }), [])
})

test('among equal hosts that hold everything, one is used, and which one changes with the seed', () => {
  const hosts = Array.from({ length: 4 }, () => host())
  const plans = plansOf({ hosts, demands: heldByAll(8, 1, hosts) })
  for (const plan of plans) assert.equal(new Set(plan).size, 1)
  assert.deepEqual(new Set(plans.flat()), new Set([0, 1, 2, 3]))
})

test('few hosts that cover all are taken before many', () => {
  // Hosts 0-3 hold two experts each, 4 and 5 the two halves.
  const hosts = Array.from({ length: 6 }, () => host())
  const demands = Array.from({ length: 8 }, (_, expert) => ({ expert, rows: 1, holders: [Math.floor(expert / 2), expert < 4 ? 4 : 5] }))
  assert.deepEqual(usualPlan({ hosts, demands }), [4, 4, 4, 4, 5, 5, 5, 5])
})

test('own experts are used rather than those of others', () => {
  const hosts = [host({ overheadUs: 300 }), host({ local: true, overheadUs: 0 })]
  assert.deepEqual(usualPlan({ hosts, demands: heldByAll(3, 1, hosts) }), [1, 1, 1])
})

test('a host with a slow link, a long queue or slow compute is left out', () => {
  const demands = (hosts: HostCost[]): ExpertDemand[] => heldByAll(2, 32, hosts)
  for (const slow of [{ overheadUs: 80_000 }, { queueUs: 80_000 }, { perPickUs: 2500 }]) {
    const hosts = [host(slow), host()]
    assert.deepEqual(usualPlan({ hosts, demands: demands(hosts) }), [1, 1], JSON.stringify(slow))
  }
})

test('a slow host is used for what it alone holds, and for nothing more', () => {
  const hosts = [host({ overheadUs: 30_000 }), host()]
  const demands = [
    { expert: 0, rows: 1, holders: [0] },
    { expert: 1, rows: 400, holders: [0, 1] },
  ]
  assert.deepEqual(usualPlan({ hosts, demands: [demands[0]!, { ...demands[1]!, holders: [1] }] }), [0, 1])
  const perPick = [host({ overheadUs: 30_000, perPickUs: 1000 }), host()]
  assert.deepEqual(usualPlan({ hosts: perPick, demands }), [0, 1])
})

test('where compute outweighs the link, equal hosts share the work evenly', () => {
  const hosts = Array.from({ length: 4 }, () => host({ perPickUs: 1000 }))
  const plan = usualPlan({ hosts, demands: heldByAll(8, 32, hosts) })
  for (let index = 0; index < 4; index++) assert.equal(plan.filter((used) => used === index).length, 2)
})

test('an expert of many rows goes to quick compute, whatever the order of the experts', () => {
  const hosts = [host({ perPickUs: 1000 }), host({ perPickUs: 100 })]
  const demands = [
    { expert: 0, rows: 1, holders: [0, 1] },
    { expert: 1, rows: 100, holders: [0, 1] },
  ]
  assert.equal(usualPlan({ hosts, demands })[1], 1)
  assert.equal(usualPlan({ hosts, demands: demands.toReversed() })[0], 1)
})

test('a host that seems somewhat worse is tried now and then, a hopeless one never', () => {
  const hosts = [host(), host({ overheadUs: 4000 }), host({ overheadUs: 900_000 })]
  const used = plansOf({ hosts, demands: heldByAll(1, 1, hosts) }).flat()
  const times = [0, 1, 2].map((index) => used.filter((other) => other === index).length)
  assert.ok(times[0]! > 0.9 * SEEDS.length, times.join())
  assert.ok(times[1]! > 0, times.join())
  assert.equal(times[2], 0)
})

test('costs that are no numbers still give a plan', () => {
  for (const bad of [NaN, Infinity]) {
    const hosts = [host({ overheadUs: bad, perPickUs: bad }), host({ queueUs: bad })]
    for (const plan of plansOf({ hosts, demands: heldByAll(3, 2, hosts) })) assert.ok(plan.every((index) => index === 0 || index === 1))
  }
})
