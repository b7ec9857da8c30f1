import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Manifest } from '../../../node/model/manifest.ts'
import { coverageOf, describeBytes, describeMissing, rangesOf } from '../../../node/router/coverage.ts'

const shard = (layer: number, first: number, last: number) => ({
  role: 'experts',
  layer,
  first,
  last,
  bytes: 1_000_000 * (last - first + 1),
})
const MODEL = {
  config: { layers: 3, experts: 4 },
  blobs: [0, 1, 2].flatMap((layer) => [shard(layer, 0, 1), shard(layer, 2, 3)]),
} as unknown as Manifest

test('a model of which every expert has a host is complete', () => {
  assert.deepEqual(
    coverageOf(MODEL, (layer) => layer + 2),
    { experts: 12, covered: 12, minReplicas: 2, complete: true, missing: [], missingBytes: 0 },
  )
})

test('what is missing is named, with the size of the shards that would complete it', () => {
  const coverage = coverageOf(MODEL, (layer, expert) => (layer === 1 && expert !== 2 ? 0 : 1))
  assert.deepEqual(coverage, {
    experts: 12,
    covered: 9,
    minReplicas: 0,
    complete: false,
    missing: [{ layer: 1, experts: '0-1,3' }],
    missingBytes: 4_000_000,
  })
  assert.equal(describeMissing(coverage), '3 of 12 experts have no host (layer 1); 4.0 MB more on any nodes would complete it')
  const nobody = coverageOf(MODEL, () => 0)
  assert.match(describeMissing(nobody), /^12 of 12 experts have no host \(layers 0-2\); 12\.0 MB/)
})

test('numbers as ranges, bytes as people say them', () => {
  assert.deepEqual(
    [[], [3], [0, 1, 2, 3, 8], [1, 3, 4]].map((numbers) => rangesOf(numbers)),
    ['', '3', '0-3,8', '1,3-4'],
  )
  assert.deepEqual([12_600_000, 3_100_000_000].map(describeBytes), ['12.6 MB', '3.1 GB'])
})
