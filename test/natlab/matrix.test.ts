/**
 * Every kind of router against every other: two real daemons behind them, and a query whose experts are all on the other side.
 * `SKEIN_NATLAB_RUNS` (default 1) repeats each pair, `SKEIN_NATLAB_PAIRS` (such as `port-sym,sym-sym`) chooses some.
 */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { ensureEmbeddedModel } from '../../node/model/embedded.ts'
import { NAT_KINDS } from '../../scripts/natlab/nat-rules.ts'
import { pairTable } from '../../scripts/natlab/pair-table.ts'
import { runPair } from '../../scripts/natlab/pair-run.ts'
import type { PairResult } from '../../scripts/natlab/pair-run.ts'
import { missingRequirement } from '../../scripts/natlab/requirements.ts'

const RUNS = Number(process.env['SKEIN_NATLAB_RUNS'] ?? 1)
const CHOSEN = process.env['SKEIN_NATLAB_PAIRS']?.split(',') ?? null
/** 20 ms from one side to the other and back, 60 over a public node. */
const DELAYS = Object.freeze({ delayMs: 5, publicDelayMs: 10 })
const DIRECT_WITHIN_MS = 20_000
/** Routers that map by destination on both sides: nobody can know where to send to. */
const RELAYED = 'sym-sym'
const RUN_TIMEOUT_MS = 180_000

const missing = await missingRequirement()
const results = new Map<string, PairResult[]>()

describe('routers', { skip: missing ?? false }, async () => {
  const dir = await mkdtemp(join(tmpdir(), 'skein-natlab-'))
  const storeDir = join(dir, 'blobs')
  await ensureEmbeddedModel(createBlobStore({ dir: storeDir }))
  after(async () => {
    console.log(pairTable(results))
    await rm(dir, { recursive: true, force: true, maxRetries: 5 })
  })
  for (const a of NAT_KINDS) {
    for (const b of NAT_KINDS) {
      const pair = `${a}-${b}`
      if (CHOSEN !== null && !CHOSEN.includes(pair)) continue
      test(`${a} x ${b}`, { timeout: RUNS * RUN_TIMEOUT_MS }, async () => {
        for (let run = 0; run < RUNS; run++) {
          const init = { a: { nat: a }, b: { nat: b }, ...DELAYS, dir: join(dir, 'run'), storeDir, directWithinMs: DIRECT_WITHIN_MS }
          const result = await runPair(init)
          results.set(pair, [...(results.get(pair) ?? []), result])
          assert.equal(result.directMs === null, pair === RELAYED, `run ${run + 1}: links ${result.links.join(', ')}`)
        }
      })
    }
  }
})
