import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import type { HeatMap, HeatShape } from '../../../crdt/heat-map.ts'
import { HeatSums } from '../../../crdt/heat-sums.ts'
import { OwnRouting } from '../../../crdt/own-routing.ts'
import { codeOf, decay, shareOf } from '../../../crdt/rates.ts'
import type { ModelRouting } from '../../../crdt/schema.ts'
import { decodeTopic, encodeTopic } from '../../../crdt/topic-codec.ts'
import { START_MS } from '../../helpers/ledger.ts'

const HALF_LIFE_MS = 3_600_000
/** Ten half-lives, in steps of half a minute. */
const STEPS = 1200
const STEP_S = 30
const M = 'model'
const nearly = (actual: number, expected: number, share = 0.03): void =>
  assert.ok(Math.abs(actual - expected) <= share * Math.abs(expected), `${actual} is not nearly ${expected}`)

/** What a driver states that routes `tokens` per second to each expert of one layer, and pairs likewise, for a long time. */
function driver(tokens: readonly number[], pairs: ReadonlyMap<number, number> = new Map()): ModelRouting {
  const own = new OwnRouting(HALF_LIFE_MS)
  const counts = tokens.map((count) => count * STEP_S)
  const together = [new Map([...pairs].map(([key, count]) => [key, count * STEP_S]))]
  for (let step = STEPS - 1; step >= 0; step--) {
    own.add(M, { layers: 1, experts: tokens.length, counts, pairs: together }, START_MS - step * STEP_S * 1000)
  }
  return decodeTopic('routing', encodeTopic('routing', own.value(START_MS)))!.get(M)!
}

function mergeHeat(authors: readonly ModelRouting[], shape: HeatShape, nowMs: number): HeatMap {
  const sums = new HeatSums(shape)
  for (const author of authors) sums.change(undefined, author)
  return sums.at(nowMs)
}

test('a steady use is its rate, whatever the half-life, and falls by half in each', () => {
  const stated = driver([8, 2, 0])
  const map = mergeHeat([stated], { layers: 1, experts: 3 }, START_MS)
  nearly(map.rates[0]!, 8)
  nearly(map.rates[1]!, 2)
  assert.equal(map.rates[2], 0)
  assert.deepEqual(
    [...map.tokens].map((count) => Math.round(count / STEPS / STEP_S)),
    [8, 2, 0],
  )
  const later = mergeHeat([stated], { layers: 1, experts: 3 }, START_MS + 2 * HALF_LIFE_MS)
  nearly(later.rates[0]!, map.rates[0]! / 4, 1e-9)
  assert.deepEqual(later.tokens, map.tokens)
  assert.equal(
    mergeHeat([stated], { layers: 1, experts: 3 }, START_MS - 3 * HALF_LIFE_MS).rates[0],
    map.rates[0],
    'a clock that goes behind',
  )
})

test('pairs come by layer, the most used first, and only the top of many', () => {
  const pairs = new Map(Array.from({ length: 1000 }, (_, i): [number, number] => [i + 1, 1 + (i % 100)]))
  const map = mergeHeat(
    [
      driver(
        Array.from({ length: 2000 }, () => 100),
        pairs,
      ),
    ],
    { layers: 1, experts: 2000 },
    START_MS,
  )
  assert.equal(map.pairs.length, 32)
  for (const { a, b, rate } of map.pairs) {
    assert.equal(a, 0)
    nearly(rate, 1 + ((b - 1) % 100))
    assert.ok(rate > 90)
  }
  assert.deepEqual(
    map.pairs,
    map.pairs.toSorted((x, y) => y.rate - x.rate),
  )
})

test('whoever claims a billion tokens gains no more than four times the median author', () => {
  const honest = Array.from({ length: 5 }, () => driver([10, 10, 0, 0], new Map([[1, 10]])))
  const liar = driver([0, 0, 1e6, 0], new Map([[2 * 4 + 3, 1e6]]))
  const map = mergeHeat([...honest, liar], { layers: 1, experts: 4 }, START_MS)
  nearly(map.rates[0]!, 50)
  nearly(map.rates[2]!, 4 * 20)
  nearly(map.tokens[2]! / STEPS / STEP_S, 4 * 20)
  const lie = map.pairs.find(({ a }) => a === 2)!
  assert.ok(lie.rate <= 81, `${lie.rate}`)
  const alone = mergeHeat([liar], { layers: 1, experts: 4 }, START_MS)
  nearly(alone.rates[2]!, 1e6)
})

test('an author of another shape counts where the shapes meet', () => {
  const pairs = new Map([
    [1, 5],
    [2, 5],
  ])
  const map = mergeHeat([driver([5, 6, 7], pairs)], { layers: 2, experts: 2 }, START_MS)
  assert.deepEqual([...map.rates].map(Math.round), [5, 6, 0, 0])
  assert.deepEqual(
    map.pairs.map(({ layer, a, b }) => [layer, a, b]),
    [[0, 0, 1]],
  )
})

test('whatever came and went, the sums are those of the authors that are there, whatever their order', () => {
  const routing = fc.record({
    cells: fc.array(fc.nat(5000), { minLength: 6, maxLength: 6 }),
    peak: fc.double({ min: 1e-4, max: 1e7, noNaN: true }),
    agoMs: fc.integer({ min: -3_600_000, max: 3_600_000 }),
    halfLifeMs: fc.integer({ min: 1_000, max: 30 * 24 * 3_600_000 }),
  })
  const modelOf = ({ cells, peak, agoMs, halfLifeMs }: { cells: number[]; peak: number; agoMs: number; halfLifeMs: number }) => ({
    layers: 2,
    experts: 3,
    counts: cells,
    heat: {
      asOfMs: START_MS - agoMs,
      halfLifeMs,
      peak,
      codes: Uint8Array.from(cells, (cell) => cell % 256),
      pairs: { keys: Float64Array.of(1, 11), codes: Uint8Array.of(cells[0]! % 256, 200) },
    },
  })
  fc.assert(
    fc.property(fc.array(routing, { maxLength: 12 }), fc.array(fc.nat(11), { maxLength: 30 }), (stated, changes) => {
      const authors = stated.map(modelOf)
      const sums = new HeatSums({ layers: 2, experts: 3 })
      const present = new Map<number, ModelRouting>()
      for (const [i, who] of [...authors.keys(), ...changes].entries()) {
        const author = authors[who]
        if (author === undefined) continue
        const before = present.get(who)
        const after = i % 3 === 0 && before !== undefined ? undefined : { ...author }
        sums.change(before, after)
        if (after === undefined) present.delete(who)
        else present.set(who, after)
      }
      assert.deepEqual(sums.at(START_MS), mergeHeat([...present.values()].toReversed(), { layers: 2, experts: 3 }, START_MS))
    }),
  )
})

test('any share of the peak survives its code within 2.2 %', () => {
  fc.assert(
    fc.property(fc.double({ min: 2 ** -15, max: 1, noNaN: true }), fc.double({ min: 1e-6, max: 1e7, noNaN: true }), (share, peak) => {
      nearly(shareOf(codeOf(share * peak, peak)), share, 0.022)
    }),
  )
  assert.equal(codeOf(0, 5), 0)
  assert.equal(codeOf(1e-9, 1), 0)
  assert.equal(decay(0, 1), 1)
})

test('what a node stated in an earlier life goes on: counts to 0.05 %, rates aged', () => {
  const before = new OwnRouting(HALF_LIFE_MS)
  const counts = [1e6 + 1, 123, 0]
  before.add(M, { layers: 1, experts: 3, counts, pairs: [new Map([[1, 100]])] }, START_MS)
  const stated = before.value(START_MS)
  const again = new OwnRouting(HALF_LIFE_MS)
  again.join(decodeTopic('routing', encodeTopic('routing', stated))!, START_MS + HALF_LIFE_MS)
  const restored = again.value(START_MS + HALF_LIFE_MS).get(M)!
  nearly(restored.counts[0]!, counts[0]!, 5e-4)
  assert.ok(restored.counts[0]! <= counts[0]!)
  assert.equal(restored.counts[1], 123)
  nearly(restored.heat!.peak, stated.get(M)!.heat!.peak / 2)
  assert.deepEqual([...restored.heat!.pairs.keys], [1])
  for (let i = 0; i < 1000; i++) again.add(M, { layers: 1, experts: 3, counts: [1, 0, 0] }, START_MS + HALF_LIFE_MS + i)
  assert.ok(again.value(START_MS + HALF_LIFE_MS + 1000).get(M)!.counts[0]! > restored.counts[0]!, 'small additions are not rounded away')
  assert.throws(() => again.add(M, { layers: 3, experts: 1, counts }, START_MS), { name: 'InvalidMessageError' })
})

test('of more models than fit those used most are stated', () => {
  const own = new OwnRouting(HALF_LIFE_MS)
  const random = Array.from({ length: 48 * 128 }, (_, i) => 1_000_000 + ((i * 7919) % 100_003))
  for (let m = 0; m < 6; m++) own.add(`m${m}`, { layers: 48, experts: 128, counts: random.map((count) => count * (m + 1)) }, START_MS)
  const value = own.value(START_MS)
  assert.ok(value.size >= 1 && value.size < 6, `${value.size} models`)
  assert.deepEqual([...value.keys()].toSorted(), ['m5', 'm4', 'm3', 'm2', 'm1', 'm0'].slice(0, value.size).toSorted())
})
