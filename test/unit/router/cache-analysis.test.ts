import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { hitRate, POLICIES, segmentCacheHitRate, segmentRoutingPerformance } from '../../../node/router/cache-analysis.ts'
import { traceHeat, tracePairs } from '../../../node/router/routing-trace.ts'
import type { RoutingTrace } from '../../../node/router/routing-trace.ts'

/** One layer, one sequence: each text is a token's experts. */
const traceOf = (experts: number, ...tokens: readonly string[]): RoutingTrace => ({
  layers: 1,
  experts,
  expertsPerToken: tokens[0]!.length,
  sequences: [[tokens.flatMap((token) => token.split('').map(Number))]],
})

test('a known sequence hits as each policy says', () => {
  const trace = traceOf(4, '0', '1', '0', '2', '1', '0')
  // lru keeps {0,1} {0,2} {2,1} {1,0}: one hit; lfu keeps 0 when 2 comes: hits 0 twice; belady gives 2 up at once: three hits.
  assert.equal(hitRate(trace, 'lru', 2).hits, 1 / 6)
  assert.equal(hitRate(trace, 'lfu', 2).hits, 2 / 6)
  assert.equal(hitRate(trace, 'belady', 2).hits, 3 / 6)
  assert.equal(hitRate(trace, 'lru', 3).hits, 3 / 6)
})

test('all experts of a token must be there for all to be local', () => {
  const trace = traceOf(4, '01', '02', '01', '01')
  assert.deepEqual(hitRate(trace, 'lru', 2), { hits: (0 + 1 + 1 + 2) / 8, allHits: 1 / 4 })
})

test('heat keeps what was used most of late', () => {
  const steady = traceOf(4, ...'0101010101'.split(''))
  assert.equal(hitRate(steady, 'heat', 2).hits, 8 / 10)
  assert.equal(hitRate(traceOf(4, ...'0010010010'.split('')), 'heat', 1).hits, 0.6)
})

test('no policy beats belady, and more room never hurts it', () => {
  const token = fc.uniqueArray(fc.nat(7), { minLength: 2, maxLength: 2 })
  fc.assert(
    fc.property(fc.array(token, { minLength: 1, maxLength: 60 }), (tokens) => {
      const trace: RoutingTrace = { layers: 1, experts: 8, expertsPerToken: 2, sequences: [[tokens.flat()]] }
      const belady = [2, 4, 6].map((capacity) => hitRate(trace, 'belady', capacity).hits)
      ;[2, 4, 6].forEach((capacity, i) => {
        for (const policy of POLICIES) assert.ok(hitRate(trace, policy, capacity).hits <= belady[i]! + 1e-12, `${policy} at ${capacity}`)
      })
      assert.ok(belady[0]! <= belady[1]! && belady[1]! <= belady[2]!)
      assert.ok(hitRate(trace, 'lru', 4).allHits <= hitRate(trace, 'lru', 4).hits)
    }),
  )
})

test('routing that never changes is covered by a fixed group, and cached whole', () => {
  const trace = traceOf(8, ...Array.from({ length: 20 }, () => '25'))
  assert.equal(segmentRoutingPerformance(trace, 4), 1)
  assert.equal(segmentCacheHitRate(trace, 4, 2), 1)
  assert.equal(segmentCacheHitRate(trace, 4, 1), 0.5)
})

test('the metrics of a small trace, by hand', () => {
  const trace = traceOf(4, '0', '0', '1', '2')
  // Segments of 2: {0,0} {0,1} {1,2}: counts 2 · 1 1 · 1 1.
  assert.equal(segmentCacheHitRate(trace, 2, 1), 4 / 6)
  // Threshold 2: matches 2 of 2 predicted, 6 used: F1 = 4/8. Threshold 1: matches 6, predicted 10: F1 = 12/16.
  assert.equal(segmentRoutingPerformance(trace, 2), 12 / 16)
})

test('heat and pairs of a trace count its tokens', () => {
  const trace = traceOf(4, '01', '10', '23')
  assert.deepEqual([...traceHeat(trace)], [2, 2, 1, 1])
  assert.deepEqual(tracePairs(trace), [
    { layer: 0, a: 0, b: 1, rate: 2 },
    { layer: 0, a: 2, b: 3, rate: 1 },
  ])
})
