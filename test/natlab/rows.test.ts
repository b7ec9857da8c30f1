/** What stands in the way of real people beyond the sixteen pairs. */
import assert from 'node:assert/strict'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, describe, test } from 'node:test'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { ensureEmbeddedModel } from '../../node/model/embedded.ts'
import type { SideInit } from '../../scripts/natlab/lab.ts'
import { pairTable } from '../../scripts/natlab/pair-table.ts'
import { runPair } from '../../scripts/natlab/pair-run.ts'
import type { PairResult } from '../../scripts/natlab/pair-run.ts'
import { missingRequirement } from '../../scripts/natlab/requirements.ts'

interface Row {
  readonly name: string
  readonly a: SideInit
  readonly b: SideInit
  /** What must carry the calls in the end. */
  readonly ends: readonly string[]
  /** Whether b is reachable by everybody in the end, as AutoNAT has confirmed. */
  readonly isHostPublic: boolean
}

const ROWS: readonly Row[] = [
  { name: 'no firewall', a: { nat: 'port' }, b: { nat: 'open' }, ends: ['tcp'], isHostPublic: true },
  { name: 'two routers in a row', a: { nat: 'port', outerNat: 'port' }, b: { nat: 'port' }, ends: ['tcp', 'quic'], isHostPublic: false },
  { name: 'UDP blocked', a: { nat: 'port', blockUdp: true }, b: { nat: 'port' }, ends: ['tcp'], isHostPublic: false },
  {
    name: 'UPnP router',
    a: { nat: 'sym' },
    b: { nat: 'sym', upnp: true },
    ends: ['tcp'],
    isHostPublic: true,
  },
  {
    name: 'IPv6 behind stateful firewalls and IPv4 hopeless',
    a: { nat: 'sym', ipv6: true },
    b: { nat: 'sym', ipv6: true },
    ends: ['quic', 'tcp'],
    isHostPublic: false,
  },
]
const CHOSEN = process.env['SKEIN_NATLAB_ROWS']?.split(',') ?? null

const missing = await missingRequirement()
const results = new Map<string, PairResult[]>()

describe('special networks', { skip: missing ?? false }, async () => {
  const dir = await mkdtemp(join(tmpdir(), 'skein-natlab-'))
  const storeDir = join(dir, 'blobs')
  await ensureEmbeddedModel(createBlobStore({ dir: storeDir }))
  after(async () => {
    console.log(pairTable(results))
    await rm(dir, { recursive: true, force: true, maxRetries: 5 })
  })
  for (const { name, a, b, ends, isHostPublic } of ROWS) {
    if (CHOSEN !== null && !CHOSEN.includes(name)) continue
    test(name, { timeout: 180_000 }, async () => {
      const result = await runPair({ a, b, delayMs: 5, publicDelayMs: 10, dir: join(dir, 'run'), storeDir, directWithinMs: 20_000 })
      results.set(name, [result])
      assert.ok(ends.includes(result.links.at(-1)!), `links ${result.links.join(', ')}`)
      assert.equal(result.isHostPublic, isHostPublic)
    })
  }
})
