/**
 * Every kind of router against every other: two real daemons behind them, and a query whose experts are all on the other side.
 * `SKEIN_NATLAB_RUNS` (default 1) repeats each pair, `SKEIN_NATLAB_PAIRS` (such as `port-sym,sym-sym`) chooses some.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { NAT_KINDS } from '../../scripts/natlab/nat-rules.ts'
import { missingRequirement } from '../../scripts/natlab/requirements.ts'
import { openPairLab, PAIR_TIMEOUT_MS } from '../helpers/pair-lab.ts'

const RUNS = Number(process.env['SKEIN_NATLAB_RUNS'] ?? 1)
const CHOSEN = process.env['SKEIN_NATLAB_PAIRS']?.split(',') ?? null
/** Routers that map by destination on both sides: nobody can know where to send to. */
const RELAYED = 'sym-sym'

const missing = await missingRequirement()

describe('routers', { skip: missing ?? false }, async () => {
  const lab = await openPairLab()
  for (const a of NAT_KINDS) {
    for (const b of NAT_KINDS) {
      const pair = `${a}-${b}`
      if (CHOSEN !== null && !CHOSEN.includes(pair)) continue
      test(`${a} x ${b}`, { timeout: RUNS * PAIR_TIMEOUT_MS }, async () => {
        for (let run = 0; run < RUNS; run++) {
          const result = await lab.run(pair, { a: { nat: a }, b: { nat: b } })
          assert.equal(result.directMs === null, pair === RELAYED, `run ${run + 1}: links ${result.links.join(', ')}`)
        }
      })
    }
  }
})
