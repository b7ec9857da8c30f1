import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { matesOf, place, TARGET_REPLICAS } from '../../../node/router/placement.ts'
import type { PlacedModel, PlacementProblem } from '../../../node/router/placement.ts'

/** A model of equal shards; `others` by shard. */
function modelOf(layers: number, perLayer: number, others: (i: number) => number, heat: (i: number) => number = () => 1): PlacedModel {
  const shards = Array.from({ length: layers * perLayer }, (_, i) => {
    return { cid: `shard-${i}`, layer: Math.floor(i / perLayer), bytes: 100, others: others(i), heat: heat(i) }
  })
  return { id: 'model', shards, mates: matesOf(shards, []) }
}

function problemOf(fields: Partial<PlacementProblem> & Pick<PlacementProblem, 'models'>): PlacementProblem {
  return { held: new Set(), pinned: new Set(), budgetBytes: 400, isRelayed: false, nodes: 1, seed: 1, ...fields }
}

const cids = (refs: readonly { cid: string }[]): string[] => refs.map(({ cid }) => cid).sort()
const layersOf = (refs: readonly { cid: string }[], perLayer: number): Set<number> =>
  new Set(refs.map(({ cid }) => Math.floor(Number(cid.slice(6)) / perLayer)))

test('a lone node takes up as much as fits, of as few layers as can be', () => {
  const { fetch, drop } = place(problemOf({ models: [modelOf(6, 4, () => 0)], budgetBytes: 850 }))
  assert.deepEqual([fetch.length, drop.length], [8, 0])
  assert.equal(layersOf(fetch, 4).size, 2)
})

test('what nobody serves comes before what few serve, and that before hot replicas', () => {
  const model = modelOf(
    3,
    1,
    (i) => i,
    (i) => 10 ** i,
  )
  const order = place(problemOf({ models: [model], budgetBytes: 300, seed: 3 })).fetch.map(({ cid }) => cid)
  assert.deepEqual(order.slice(0, 2), ['shard-0', 'shard-1'])
})

test('replicas beyond the target go to hot and rare shards', () => {
  const model = modelOf(
    8,
    1,
    (i) => (i === 7 ? 3 : 2),
    (i) => (i === 5 ? 20 : 1),
  )
  let hottest = 0
  for (let seed = 0; seed < 300; seed++) {
    const { fetch } = place(problemOf({ models: [model], budgetBytes: 100, seed }))
    if (fetch[0]?.cid === 'shard-5') hottest++
  }
  assert.ok(hottest > 60, `${hottest} of 300`)
})

test('shards that tokens use together are taken together', () => {
  const base = modelOf(1, 6, () => 0)
  const pairs = [
    { a: 0, b: 3, rate: 10 },
    { a: 1, b: 4, rate: 10 },
    { a: 2, b: 5, rate: 10 },
    { a: 0, b: 1, rate: 1 },
  ]
  for (let seed = 0; seed < 50; seed++) {
    const [first, second] = cids(
      place(problemOf({ models: [{ ...base, mates: matesOf(base.shards, pairs) }], budgetBytes: 200, seed })).fetch,
    ).map((cid) => Number(cid.slice(6)))
    assert.equal(second! - first!, 3, `seed ${seed}`)
  }
})

test('a need is answered by about as many nodes as it takes, not by all', () => {
  const nodes = 200
  let takers = 0
  for (let seed = 0; seed < nodes; seed++) {
    const model = modelOf(6, 4, (i) => (i === 9 ? 0 : 3))
    takers += place(problemOf({ models: [model], nodes, seed, budgetBytes: 100 })).fetch.filter(({ cid }) => cid === 'shard-9').length
  }
  assert.ok(takers >= 1 && takers <= 16, `${takers} of ${nodes} nodes`)
})

test('a full node makes room for what nobody serves, and never drops what is pinned or what nobody else has', () => {
  const others = (i: number): number => [0, 3, 0, 3, 3][i] ?? 3
  const model = modelOf(5, 1, others)
  const held = new Set(['shard-1', 'shard-2', 'shard-3', 'shard-4'])
  let swapped = 0
  for (let seed = 0; seed < 100; seed++) {
    const { fetch, drop } = place(problemOf({ models: [model], held, pinned: new Set(['shard-3']), seed }))
    assert.equal(fetch.length, drop.length)
    if (fetch.length === 0) continue
    swapped++
    assert.deepEqual(cids(fetch), ['shard-0'])
    assert.ok(['shard-1', 'shard-4'].includes(drop[0]!.cid))
  }
  assert.ok(swapped > 30)
})

test('a node that is content does nothing: no shard goes for one that is hardly better', () => {
  const model = modelOf(
    6,
    1,
    () => 2,
    (i) => 1 + i / 20,
  )
  const held = new Set(['shard-0', 'shard-1', 'shard-2', 'shard-3'])
  for (let seed = 0; seed < 200; seed++) assert.deepEqual(place(problemOf({ models: [model], held, seed })), { fetch: [], drop: [] })
})

test('a smaller budget sheds what is worth least', () => {
  const model = modelOf(4, 1, (i) => i)
  const held = new Set(['shard-0', 'shard-1', 'shard-2', 'shard-3'])
  assert.deepEqual(cids(place(problemOf({ models: [model], held, budgetBytes: 200 })).drop), ['shard-2', 'shard-3'])
})

test('a node behind a relay covers what is missing and adds no replicas', () => {
  const hot = modelOf(4, 1, () => TARGET_REPLICAS)
  for (let seed = 0; seed < 50; seed++) assert.deepEqual(place(problemOf({ models: [hot], isRelayed: true, seed })).fetch, [])
  assert.equal(place(problemOf({ models: [modelOf(4, 1, () => 0)], isRelayed: true })).fetch.length, 4)
})

test('whatever the swarm looks like: within budget, nothing twice, nothing pinned dropped, equal seeds equal', () => {
  const shard = fc.record({
    layer: fc.nat(3),
    bytes: fc.integer({ min: 1, max: 100 }),
    others: fc.nat(5),
    heat: fc.double({ min: 0, max: 1e9, noNaN: true }),
  })
  const arbitrary = fc.record({
    shards: fc.array(shard, { maxLength: 24 }),
    pairs: fc.array(fc.record({ a: fc.nat(30), b: fc.nat(30), rate: fc.double({ min: -1, max: 1e6, noNaN: true }) }), { maxLength: 20 }),
    heldMask: fc.integer({ min: 0, max: 2 ** 24 - 1 }),
    pinnedMask: fc.integer({ min: 0, max: 2 ** 24 - 1 }),
    budgetBytes: fc.nat(1500),
    isRelayed: fc.boolean(),
    nodes: fc.integer({ min: 1, max: 1000 }),
    seed: fc.integer(),
  })
  fc.assert(
    fc.property(arbitrary, ({ shards, pairs, heldMask, pinnedMask, ...rest }) => {
      const placed = shards.map((entry, i) => ({ ...entry, cid: `c${i}` }))
      const held = new Set(placed.filter((_, i) => (heldMask >> i) & 1).map(({ cid }) => cid))
      const pinned = new Set([...held].filter((cid) => (pinnedMask >> Number(cid.slice(1))) & 1))
      const problem = { models: [{ id: 'm', shards: placed, mates: matesOf(placed, pairs) }], held, pinned, ...rest }
      const { fetch, drop } = place(problem)
      assert.deepEqual(place(problem), { fetch, drop })
      const after = new Set(held)
      for (const { cid } of drop) assert.ok(after.delete(cid) && !pinned.has(cid))
      for (const { cid } of fetch) {
        assert.ok(!after.has(cid))
        after.add(cid)
      }
      const bytes = (of: ReadonlySet<string>): number => placed.reduce((sum, entry) => sum + (of.has(entry.cid) ? entry.bytes : 0), 0)
      assert.ok(bytes(after) <= Math.max(rest.budgetBytes, bytes(pinned)))
    }),
    { numRuns: 500 },
  )
})
