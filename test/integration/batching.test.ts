/**
 * Whom a query is batched with leaves no trace. In f32 with the driver summing, 50 queries at once have the bits of each alone; with the
 * default wire the rows of a call depend on who else is in it, so sums are rounded otherwise, which may decide between two tokens that are
 * nearly equal.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { QueryRequest } from '../../node/driver/query.ts'
import type { SkeinNode } from '../../node/node.ts'
import { goldenPrompts } from '../helpers/prompts.ts'
import { ask, createSwarm, mapInLanes, shareOf, untilReady } from '../helpers/swarm.ts'
import type { Answer } from '../helpers/swarm.ts'

const BIT_EQUAL = Object.freeze({ wire: 'f32', combine: 'driver' } as const)
const MAX_TOKENS = 8
/** As many as a node answers at once. */
const LANES = 16
const prompts = goldenPrompts()
/** A tie of the default wire: the two best tokens are this near in log-probability. */
const TIE = 0.05

async function answerAll(node: SkeinNode, lanes: number, fields: Partial<QueryRequest>): Promise<Answer[]> {
  return await mapInLanes(prompts, lanes, (prompt) => ask(node, prompt, { maxTokens: MAX_TOKENS, logprobs: 5, ...fields }))
}

test('50 queries at once are answered as each alone', { timeout: 120_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const driver = await swarm.start({ host: 'none' })
  await Promise.all([0, 1].map((part) => swarm.start({ host: shareOf(swarm.model, part, 2) })))
  await untilReady(driver, 2)

  await t.test('to the bit, with f32 rows that the driver sums', async () => {
    const alone = await answerAll(driver, 1, BIT_EQUAL)
    const together = await answerAll(driver, LANES, BIT_EQUAL)
    for (const [i, { tokens, logprobs }] of together.entries()) {
      assert.deepEqual(tokens, alone[i]!.tokens)
      assert.deepEqual(logprobs, alone[i]!.logprobs)
    }
    for (const { report } of together) assert.equal(report.exact, true)
  })

  await t.test('to a tie, with the default wire', async (tt) => {
    const alone = await answerAll(driver, 1, {})
    const together = await answerAll(driver, LANES, {})
    let equal = 0
    for (const [i, { tokens }] of together.entries()) {
      const expected = alone[i]!
      const at = expected.tokens.findIndex((token, j) => token !== tokens[j])
      if (at === -1 && tokens.length === expected.tokens.length) {
        equal++
        continue
      }
      const [first, second] = expected.logprobs[at]?.top ?? []
      const margin = first === undefined || second === undefined ? 0 : first.logprob - second.logprob
      assert.ok(margin <= TIE, `prompt ${i} parts at token ${at} though the margin is ${margin.toFixed(3)}`)
    }
    tt.diagnostic(`${equal} of ${prompts.length} answers have the same tokens`)
    assert.ok(equal >= 45, `only ${equal} answers are the same`)
  })
})
