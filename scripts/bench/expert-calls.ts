/** Rate and latency of `/skein/expert/1` between two processes, over the connection that the product makes. */
import { benchMain, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { callWhile, connectToEchoHost, echoCall } from './echo-client.ts'
import { figure } from './figures.ts'

/** Payloads as rows of f32, each routed to one expert. */
const PAYLOADS = Object.freeze([
  { name: '128 B', rows: 1, width: 32 },
  { name: '8 KiB', rows: 1, width: 2048 },
  { name: '256 KiB', rows: 32, width: 2048 },
])
const CONCURRENCIES = Object.freeze([1, 16, 64])
const WARM_UP_ROUNDS = 1
const MIN_SMALL_CALLS_PER_S = 30_000

type Flag = 'rounds' | 'round-ms'

export const expertCallsBench: Bench<Flag> = {
  name: 'expert-calls',
  defaults: { rounds: '5', 'round-ms': '500' },

  async run({ workspace, seed, flags }) {
    const rounds = wholeNumber(flags.rounds, 'rounds', 1)
    const roundMs = wholeNumber(flags['round-ms'], 'round-ms', 1)
    const { client } = await connectToEchoHost(workspace)
    const cases = PAYLOADS.flatMap((payload) =>
      CONCURRENCIES.map((concurrency) => ({
        name: `${payload.name} × ${concurrency}`,
        call: echoCall(payload, seed),
        concurrency,
        bar: payload.rows * payload.width * 4 === 128 && concurrency === 64 ? { atLeast: MIN_SMALL_CALLS_PER_S } : null,
        rates: [] as number[],
        latencies: [] as number[],
      })),
    )
    // Round by round over all cases, so that a slow moment of the machine falls on each of them.
    for (let round = -WARM_UP_ROUNDS; round < rounds; round++) {
      for (const { call, concurrency, rates, latencies } of cases) {
        const end = performance.now() + roundMs
        const measured = await callWhile((now) => now < end, client, call, concurrency)
        if (round < 0) continue
        rates.push(measured.rate)
        for (const latency of measured.latencies) latencies.push(latency)
      }
    }
    return cases.flatMap(({ name, rates, latencies, bar }) => [
      figure(`${name}, rate`, 'calls/s', rates, bar),
      figure(`${name}, latency`, 'µs', latencies),
    ])
  },
}

if (import.meta.main) await benchMain(expertCallsBench.name, [expertCallsBench])
