import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BlobSources } from '../../../node/transfer/blob-sources.ts'
import type { BlobSourcesComponents } from '../../../node/transfer/blob-sources.ts'

const DRAWS = 2_000

/** How often each of three holders comes first. */
async function firsts(bytesPerSecond: (peer: string) => number | null): Promise<Record<string, number>> {
  const holders = ['fast', 'slow', 'new']
  const sources = new BlobSources({
    self: 'self',
    view: () => ({ holders: () => ['self', ...holders] }) as unknown as ReturnType<BlobSourcesComponents['view']>,
    isGone: () => false,
    records: { find: async () => [] },
    bytesPerSecond,
  })
  const counts: Record<string, number> = Object.fromEntries(holders.map((peer) => [peer, 0]))
  for (let i = 0; i < DRAWS; i++) {
    const shard = { role: 'experts', layer: 0, first: 0, last: 0, cid: 'c', bytes: 1 } as const
    const order = await sources.ofShard('model', shard as never, AbortSignal.timeout(5_000))
    assert.deepEqual([...order].sort(), [...holders].sort())
    counts[order[0]!]!++
  }
  return counts
}

test('a peer that sends faster is asked first as much more often, and one that is not known gets its chance', async () => {
  const rates: Record<string, number> = { fast: 30e6, slow: 1e6 }
  const { fast, slow, new: unknown } = await firsts((peer) => rates[peer] ?? null)
  assert.ok(fast! > 6 * slow!, `${fast} and ${slow}`)
  assert.ok(unknown! > DRAWS / 5)
})

test('with nothing known every holder is asked first as often', async () => {
  for (const count of Object.values(await firsts(() => null))) assert.ok(count > DRAWS / 4)
})
