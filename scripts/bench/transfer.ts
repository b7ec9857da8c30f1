/** What fetching blobs from a host costs the calls that go to it over the same connection. */
import { join } from 'node:path'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { BlobTransfer } from '../../node/transfer/blob-transfer.ts'
import { benchMain, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { callWhile, connectToEchoHost, echoCall } from './echo-client.ts'
import { figure, ratios } from './figures.ts'

/** One token of a model of 2,048 numbers. */
const PAYLOAD = Object.freeze({ rows: 1, width: 2048 })
/** A shard. */
const BLOB_BYTES = 32 * 2 ** 20
const WARM_UP_ROUNDS = 1
/** Below calls in priority: what a transfer may cost the median call, and the slowest twentieth. */
const MAX_MEDIAN_RATIO = 1.25
const MAX_P95_RATIO = 2

type Flag = 'rounds' | 'in-flight'

export const transferBench: Bench<Flag> = {
  name: 'transfer',
  defaults: { rounds: '8', 'in-flight': '1' },

  async run({ workspace, seed, flags }) {
    const rounds = wholeNumber(flags.rounds, 'rounds', 1)
    const inFlight = wholeNumber(flags['in-flight'], 'in-flight', 1)
    const { mesh, client, host, cids } = await connectToEchoHost(workspace, rounds + WARM_UP_ROUNDS, BLOB_BYTES)
    const store = createBlobStore({ dir: join(workspace.dir, 'driver-blobs') })
    const { fetcher } = new BlobTransfer({ mesh, store, isBusy: () => true, log: () => {} })
    const call = echoCall(PAYLOAD, seed)
    const signal = new AbortController().signal
    const latencies = { alone: [] as number[], beside: [] as number[] }
    const p50s = { alone: [] as number[], beside: [] as number[] }
    const p95s = { alone: [] as number[], beside: [] as number[] }
    const rates: number[] = []
    let transferMs = 1_000

    /** Calls while a blob is fetched, or for as long as the last one took. */
    const measure = async (side: 'alone' | 'beside', round: number): Promise<void> => {
      const startedAt = performance.now()
      let isFetching = side === 'beside'
      const cid = cids[round + WARM_UP_ROUNDS]!
      const fetching = isFetching ? fetcher.fetch({ cid, bytes: BLOB_BYTES, sources: () => [host], signal }) : null
      const fetched = fetching?.finally(() => (isFetching = false))
      const isWanted = side === 'beside' ? () => isFetching : (now: number) => now < startedAt + transferMs
      const [{ latencies: measured }] = await Promise.all([callWhile(isWanted, client, call, inFlight), fetched])
      if (side === 'beside') transferMs = performance.now() - startedAt
      if (round < 0) return
      if (side === 'beside') rates.push(BLOB_BYTES / 1e3 / transferMs)
      for (const latency of measured) latencies[side].push(latency)
      const { median, p95 } = figure(side, 'µs', measured)
      p50s[side].push(median)
      p95s[side].push(p95!)
    }

    for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
      for (const side of round % 2 === 0 ? (['alone', 'beside'] as const) : (['beside', 'alone'] as const)) await measure(side, round)
    }
    return [
      figure('a call of 8 KiB', 'µs', latencies.alone),
      figure('the same while a blob is fetched from its host', 'µs', latencies.beside),
      ...ratios('p50 with a transfer to p50 without', p50s.beside, p50s.alone, { atMost: MAX_MEDIAN_RATIO }),
      ...ratios('p95 with a transfer to p95 without', p95s.beside, p95s.alone, { atMost: MAX_P95_RATIO }),
      figure('the transfer', 'MB/s', rates),
    ]
  },
}

if (import.meta.main) await benchMain(transferBench.name, [transferBench])
