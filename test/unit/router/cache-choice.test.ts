import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { chooseCached } from '../../../node/router/cache-choice.ts'
import type { UsedShard } from '../../../node/router/cache-choice.ts'

const shard = (cid: string, picksPerSecond: number, isCached = false, bytes = 1_000_000): UsedShard => ({
  cid,
  bytes,
  picksPerSecond,
  isCached,
})

test('what is used most is fetched, as far as it fits', () => {
  const shards = [shard('a', 10), shard('b', 30), shard('c', 20)]
  assert.deepEqual(chooseCached({ shards, budgetBytes: 2_500_000, bytesPerPick: 1_000 }), { fetch: ['b', 'c'], drop: [] })
})

test('a shard whose calls cost fewer bytes than itself is left where it is', () => {
  const shards = [shard('rare', 1), shard('used', 3)]
  assert.deepEqual(chooseCached({ shards, budgetBytes: 9e9, bytesPerPick: 1_000 }), { fetch: ['used'], drop: [] })
  assert.deepEqual(chooseCached({ shards, budgetBytes: 9e9, bytesPerPick: 100 }), { fetch: [], drop: [] })
})

test('a cached shard gives way only to one that is used clearly more', () => {
  const choose = (other: number) =>
    chooseCached({ shards: [shard('a', 10, true), shard('b', other)], budgetBytes: 1_000_000, bytesPerPick: 1_000 })
  assert.deepEqual(choose(14), { fetch: [], drop: [] })
  assert.deepEqual(choose(16), { fetch: ['b'], drop: ['a'] })
})

test('never beyond the budget, never both, nothing that is not there', () => {
  const arbitrary = fc.array(
    fc.record({
      bytes: fc.integer({ min: 1, max: 1000 }),
      picksPerSecond: fc.double({ min: 0, max: 1e6, noNaN: true }),
      isCached: fc.boolean(),
    }),
    { maxLength: 30 },
  )
  fc.assert(
    fc.property(arbitrary, fc.nat(5000), fc.nat(5000), (entries, budgetBytes, bytesPerPick) => {
      const shards = entries.map((entry, i) => ({ ...entry, cid: `c${i}` }))
      const { fetch, drop } = chooseCached({ shards, budgetBytes, bytesPerPick })
      const after = shards.filter(({ cid, isCached }) => (isCached && !drop.includes(cid)) || fetch.includes(cid))
      assert.ok(after.reduce((sum, { bytes }) => sum + bytes, 0) <= budgetBytes)
      assert.ok(fetch.every((cid) => !shards.find((entry) => entry.cid === cid)!.isCached))
      assert.ok(drop.every((cid) => shards.find((entry) => entry.cid === cid)!.isCached))
    }),
  )
})
