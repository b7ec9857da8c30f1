import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after } from 'node:test'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { ensureEmbeddedModel } from '../../node/model/embedded.ts'
import type { SideInit } from '../../scripts/natlab/lab.ts'
import { pairTable } from '../../scripts/natlab/pair-table.ts'
import { runPair } from '../../scripts/natlab/pair-run.ts'
import type { PairResult } from '../../scripts/natlab/pair-run.ts'

/** Of one run. */
export const PAIR_TIMEOUT_MS = 180_000
/** 20 ms from one side to the other and back, 60 over a public node. */
const DELAYS = Object.freeze({ delayMs: 5, publicDelayMs: 10 })
const DIRECT_WITHIN_MS = 20_000

/** Runs pairs of networks and, when all tests of the suite have ended, prints a table of what they showed. */
export interface PairLab {
  run(name: string, init: { a: SideInit; b: SideInit; flags?: readonly string[] }): Promise<PairResult>
}

/** To be called in a suite. */
export async function openPairLab(): Promise<PairLab> {
  const dir = await mkdtemp(join(tmpdir(), 'skein-natlab-'))
  const storeDir = join(dir, 'blobs')
  await ensureEmbeddedModel(createBlobStore({ dir: storeDir }))
  const results = new Map<string, PairResult[]>()
  after(async () => {
    console.log(pairTable(results))
    await rm(dir, { recursive: true, force: true, maxRetries: 5 })
  })
  return {
    async run(name, init) {
      const result = await runPair({ ...init, ...DELAYS, dir: join(dir, 'run'), storeDir, directWithinMs: DIRECT_WITHIN_MS })
      results.set(name, [...(results.get(name) ?? []), result])
      return result
    },
  }
}
