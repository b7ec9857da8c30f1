/** What storing weights in fewer bits costs. */
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { argmax } from '../../node/engine/sampler.ts'
import type { Quant } from '../../node/model/manifest.ts'
import { feed, openLocally, type PassRouting } from '../helpers/local-generation.ts'
import { engineForTest, packForTest, type CheckpointName } from '../helpers/packed-model.ts'
import { casesOf, type GoldenCase } from './golden-suite.ts'

/** Root mean square of the difference over that of the reference. */
function rmsError(actual: Float32Array, reference: ArrayLike<number>): number {
  let difference = 0
  let scale = 0
  for (let i = 0; i < actual.length; i++) {
    difference += (actual[i]! - reference[i]!) ** 2
    scale += reference[i]! ** 2
  }
  return Math.sqrt(difference / scale)
}

/** Share of the reference's (token, expert) choices that were not made. */
function missedChoices(routing: PassRouting, golden: GoldenCase): number {
  let missed = 0
  let all = 0
  for (const [layer, tokens] of golden.router_topk.entries()) {
    for (const [token, expected] of tokens.entries()) {
      const actual = routing.experts[layer]!.subarray(token * expected.length, (token + 1) * expected.length)
      missed += expected.filter((expert) => !actual.includes(expert)).length
      all += expected.length
    }
  }
  return missed / all
}

export interface PrecisionBound {
  readonly quant: Quant
  readonly rms: number
  readonly missed: number
}

/**
 * Rounded weights move a token to another expert where the router hardly prefers one, and then the logits say little.
 * So there are two bounds: of the root-mean-square error of logits where every choice is the reference's, and of the share of
 * choices that are not.
 */
export function precisionSuite(names: readonly CheckpointName[], bounds: readonly PrecisionBound[]): void {
  describe('stored precision', { timeout: 120_000 }, () => {
    for (const { quant, rms: rmsBound, missed: missedBound } of bounds) {
      const label = quant.block === 0 ? quant.kind : `${quant.kind}, block ${quant.block}`
      test(`${label}: the error is bounded`, async (t) => {
        let compared = 0
        for (const name of names) {
          const { model } = await packForTest(t, name, quant.block === 0 ? { kind: quant.kind } : quant)
          const local = await openLocally(engineForTest(t), model)
          let worstRms = 0
          let worstMissed = 0
          for (const golden of await casesOf(name)) {
            const reference = golden.last_logits ?? golden.all_logits?.at(-1)
            if (reference === undefined) continue
            const { logits, routing } = await feed(local, local.trunk.createCache(), golden.ids)
            const missed = missedChoices(routing, golden)
            worstMissed = Math.max(worstMissed, missed)
            if (name === 'ember') assert.equal(argmax(logits), golden.greedy[0])
            if (missed > 0) continue
            worstRms = Math.max(worstRms, rmsError(logits, reference))
            compared++
          }
          t.diagnostic(`${name}: error of logits ${worstRms.toExponential(1)}, ${(100 * worstMissed).toFixed(1)} % of choices missed`)
          assert.ok(worstRms <= rmsBound, `${name}: error of logits ${worstRms}`)
          assert.ok(worstMissed <= missedBound, `${name}: ${worstMissed} of the choices missed`)
        }
        assert.ok(compared > 0)
      })
    }
  })
}
