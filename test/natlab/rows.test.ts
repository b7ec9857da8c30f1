/** What stands in the way of real people beyond the sixteen pairs. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import type { SideInit } from '../../scripts/natlab/lab.ts'
import { missingRequirement } from '../../scripts/natlab/requirements.ts'
import { openPairLab, PAIR_TIMEOUT_MS } from '../helpers/pair-lab.ts'

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

describe('special networks', { skip: missing ?? false }, async () => {
  const lab = await openPairLab()
  for (const { name, a, b, ends, isHostPublic } of ROWS) {
    if (CHOSEN !== null && !CHOSEN.includes(name)) continue
    test(name, { timeout: PAIR_TIMEOUT_MS }, async () => {
      const result = await lab.run(name, { a, b })
      assert.ok(ends.includes(result.links.at(-1)!), `links ${result.links.join(', ')}`)
      assert.equal(result.isHostPublic, isHostPublic)
    })
  }
})
