/**
 * Each way to open a direct link, with the others switched off. `SKEIN_NATLAB_WAYS` (such as `webrtc`) chooses ways,
 * `SKEIN_NATLAB_WAY_PAIRS` (such as `full-sym,sym-sym`) other routers.
 */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { PUNCH_WAYS } from '../../node/net/punch/ways.ts'
import type { NatKind } from '../../scripts/natlab/nat-rules.ts'
import { missingRequirement } from '../../scripts/natlab/requirements.ts'
import { openPairLab, PAIR_TIMEOUT_MS } from '../helpers/pair-lab.ts'

const WAYS = process.env['SKEIN_NATLAB_WAYS']?.split(',') ?? PUNCH_WAYS
const PAIRS = process.env['SKEIN_NATLAB_WAY_PAIRS']?.split(',') ?? ['port-port']
const LINKS: Readonly<Record<string, string>> = { udp: 'quic', tcp: 'tcp', webrtc: 'webrtc' }
/** Only the birthday trick of the UDP punch gets through these, and nothing through two symmetric routers. */
const HARD = ['port-sym', 'sym-port']
const RELAYED = 'sym-sym'

const missing = await missingRequirement()

describe('ways', { skip: missing ?? false }, async () => {
  const lab = await openPairLab()
  for (const way of WAYS) {
    for (const pair of PAIRS) {
      const [a, b] = pair.split('-') as [NatKind, NatKind]
      test(`${a} x ${b} by ${way} only`, { timeout: PAIR_TIMEOUT_MS }, async () => {
        const result = await lab.run(`${pair} by ${way}`, { a: { nat: a }, b: { nat: b }, flags: ['--punch-by', way] })
        const isRelayed = pair === RELAYED || (way !== 'udp' && HARD.includes(pair))
        assert.equal(result.links.at(-1), isRelayed ? 'relay' : LINKS[way], `links ${result.links.join(', ')}`)
      })
    }
  }
})
