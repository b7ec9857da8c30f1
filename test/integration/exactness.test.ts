/**
 * The split of the experts leaves no trace. With f32 on the wire and the driver summing in expert order, tokens and log-probabilities
 * have the bits of one process; with the defaults (f16, sums at the hosts) rounding may decide between two tokens that are nearly equal.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import type { QueryRequest } from '../../node/driver/query.ts'
import type { SkeinNode } from '../../node/node.ts'
import { goldenPrompts } from '../helpers/prompts.ts'
import type { Prompt } from '../helpers/prompts.ts'
import { ask, createSwarm, mapInLanes, shareOf, untilReady } from '../helpers/swarm.ts'
import type { Answer } from '../helpers/swarm.ts'

const BIT_EQUAL = Object.freeze({ wire: 'f32', combine: 'driver' } as const)
const MAX_TOKENS = 12
/** Queries that advance at once; what they are batched with must not show either. */
const LANES = 4
const prompts = goldenPrompts()
/** Prompts of which the whole distribution over the vocabulary is compared: it can only be equal if the logits are. */
const WHOLE = Object.freeze([0, 12, 26, 33, 49])
/** A tie of the default wire: the two best tokens are this near in log-probability. */
const TIE = 0.05

async function answerAll(node: SkeinNode, fields: Partial<QueryRequest>): Promise<Answer[]> {
  return await mapInLanes(prompts, LANES, (prompt) => ask(node, prompt, { maxTokens: MAX_TOKENS, logprobs: 5, ...fields }))
}

/** Every token of some answers with the log-probability of each of the vocabulary. */
async function answerWholly(node: SkeinNode): Promise<Answer['logprobs'][]> {
  const vocabulary = 4096
  const answers: Answer['logprobs'][] = []
  for (const i of WHOLE) {
    const { logprobs } = await ask(node, prompts[i]!, { maxTokens: 3, logprobs: vocabulary, ...BIT_EQUAL })
    for (const token of logprobs) assert.equal(token.top.length, vocabulary)
    answers.push(logprobs)
  }
  return answers
}

async function oneProcess(t: TestContext): Promise<{ exact: Answer[]; whole: Answer['logprobs'][] }> {
  const swarm = await createSwarm(t)
  const node = await swarm.start({ host: 'all' })
  const exact = await answerAll(node, BIT_EQUAL)
  const whole = await answerWholly(node)
  for (const { report } of exact) assert.deepEqual([report.exact, report.calls.remote], [true, 0])
  await node.stop()
  return { exact, whole }
}

/** How the default wire's answers relate to the exact ones. */
function compareDefaults(defaults: readonly Answer[], exact: readonly Answer[]): { equal: number; faults: string[] } {
  let equal = 0
  const faults: string[] = []
  for (const [i, answer] of defaults.entries()) {
    const expected = exact[i]!
    const at = expected.tokens.findIndex((token, j) => token !== answer.tokens[j])
    if (at === -1 && answer.tokens.length === expected.tokens.length) {
      equal++
      continue
    }
    // Where they part, or where one of them ends: only there is the context still the same.
    const [first, second] = expected.logprobs[at]?.top ?? []
    const margin = first === undefined || second === undefined ? 0 : first.logprob - second.logprob
    if (margin > TIE) faults.push(`prompt ${i} parts at token ${at} though the margin is ${margin.toFixed(3)}`)
  }
  return { equal, faults }
}

test('1, 2 and 4 hosts answer 50 prompts as one process does', { timeout: 280_000 }, async (t) => {
  assert.ok(prompts.length >= 50)
  const { exact, whole } = await oneProcess(t)
  assert.ok(new Set(exact.map(({ text }) => text)).size > 40, 'the answers should differ among each other')

  for (const hosts of [1, 2, 4]) {
    await t.test(`${hosts} host${hosts > 1 ? 's' : ''}`, async (tt) => {
      const swarm = await createSwarm(tt)
      const driver = await swarm.start({ host: 'none' })
      await Promise.all(Array.from({ length: hosts }, (_, part) => swarm.start({ host: shareOf(swarm.model, part, hosts) })))
      await untilReady(driver, hosts)

      const startedAt = performance.now()
      const split = await answerAll(driver, BIT_EQUAL)
      const used = new Set<string>()
      for (const [i, answer] of split.entries()) {
        const which = describe(prompts[i]!)
        assert.deepEqual(answer.tokens, exact[i]!.tokens, which)
        assert.deepEqual(answer.logprobs, exact[i]!.logprobs, which)
        assert.deepEqual([answer.report.exact, answer.report.calls.local, answer.report.wire], [true, 0, 'f32'])
        for (const { peer } of answer.report.hosts) used.add(peer)
      }
      assert.equal(used.size, hosts)
      assert.deepEqual(await answerWholly(driver), whole)
      tt.diagnostic(`${split.length} of ${split.length} answers bit-equal in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`)

      const { equal, faults } = compareDefaults(await answerAll(driver, {}), exact)
      tt.diagnostic(`with the defaults (f16, sums at the hosts) ${equal} of ${prompts.length} answers have the same tokens`)
      assert.deepEqual(faults, [])
      assert.ok(equal >= 45, `only ${equal} answers are the same with the default wire`)
    })
  }
})

function describe(prompt: Prompt): string {
  return 'messages' in prompt ? prompt.messages.at(-1)!.content : prompt.prompt
}
