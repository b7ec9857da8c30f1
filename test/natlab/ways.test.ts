/**
 * Each way to open a direct link, with the others switched off. `SKEIN_NATLAB_WAYS` (such as `webrtc`) chooses ways,
 * `SKEIN_NATLAB_PAIRS` (such as `full-sym,port-port`) other routers.
 */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { ensureEmbeddedModel } from '../../node/model/embedded.ts'
import { PUNCH_WAYS } from '../../node/net/punch/ways.ts'
import type { NatKind } from '../../scripts/natlab/nat-rules.ts'
import { pairTable } from '../../scripts/natlab/pair-table.ts'
import { runPair } from '../../scripts/natlab/pair-run.ts'
import type { PairResult } from '../../scripts/natlab/pair-run.ts'
import { missingRequirement } from '../../scripts/natlab/requirements.ts'

const WAYS = process.env['SKEIN_NATLAB_WAYS']?.split(',') ?? PUNCH_WAYS
const PAIRS = process.env['SKEIN_NATLAB_PAIRS']?.split(',') ?? ['port-port']
const LINKS: Readonly<Record<string, string>> = { udp: 'quic', tcp: 'tcp', webrtc: 'webrtc' }
/** Only the birthday trick of the UDP punch gets through these, and nothing through two symmetric routers. */
const HARD = ['port-sym', 'sym-port']
const RELAYED = 'sym-sym'

const missing = await missingRequirement()
const results = new Map<string, PairResult[]>()

describe('ways', { skip: missing ?? false }, async () => {
  const dir = await mkdtemp(join(tmpdir(), 'skein-natlab-'))
  const storeDir = join(dir, 'blobs')
  await ensureEmbeddedModel(createBlobStore({ dir: storeDir }))
  after(async () => {
    console.log(pairTable(results))
    await rm(dir, { recursive: true, force: true, maxRetries: 5 })
  })
  for (const way of WAYS) {
    for (const pair of PAIRS) {
      const [a, b] = pair.split('-') as [NatKind, NatKind]
      test(`${a} x ${b} by ${way} only`, { timeout: 180_000 }, async () => {
        const common = { delayMs: 5, publicDelayMs: 10, dir: join(dir, 'run'), storeDir, directWithinMs: 20_000 }
        const result = await runPair({ a: { nat: a }, b: { nat: b }, ...common, flags: ['--punch-by', way] })
        results.set(`${pair} by ${way}`, [result])
        const isRelayed = pair === RELAYED || (way !== 'udp' && HARD.includes(pair))
        assert.equal(result.links.at(-1), isRelayed ? 'relay' : LINKS[way], `links ${result.links.join(', ')}`)
      })
    }
  }
})
