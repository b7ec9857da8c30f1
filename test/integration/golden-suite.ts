/**
 * The engine against the reference outputs of a checkpoint in test/golden; test/golden/README.md says where they come from.
 *
 * Relative error of logits: largest absolute difference over the largest absolute value of the reference.
 * Router choices must be equal at every position of a case whose `router_gap` (smallest probability distance between a chosen
 * and a rejected expert) is above ROUTER_GAP, and in order of falling probability where neighbours differ by more than that.
 */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { after, before, describe, test } from 'node:test'
import type { KvCache } from '../../node/engine/engine.ts'
import type { ModelConfig } from '../../node/model/model-config.ts'
import { argmax } from '../../node/engine/sampler.ts'
import { feed, generateGreedily, openLocally, runLayers, type LocalModel, type PassRouting } from '../helpers/local-generation.ts'
import { engineForTest, packForTest, type CheckpointName } from '../helpers/packed-model.ts'

/** Bound of the relative error of float32 logits; measured: below 1e-6 (the test prints it). */
const F32_TOLERANCE = 1e-3
/** Ten times the largest error of a router probability that was measured. */
const ROUTER_GAP = 1e-5
/** Largest error of the weight of a chosen expert. */
const ROUTER_WEIGHT_TOLERANCE = 1e-4

export interface GoldenCase {
  readonly name?: string
  readonly ids: readonly number[]
  readonly last_logits?: readonly number[]
  readonly all_logits?: readonly (readonly number[])[]
  readonly top20?: readonly (readonly [number, number])[]
  /** [layer][token][k] */
  readonly router_topk: readonly (readonly (readonly number[])[])[]
  readonly router_weights: readonly (readonly (readonly number[])[])[]
  readonly router_gap: number
  readonly greedy: readonly number[]
  readonly greedy_margin: readonly number[]
}

/** Largest absolute difference over the largest absolute reference. */
export function relativeError(actual: Float32Array, reference: ArrayLike<number>): number {
  assert.equal(actual.length, reference.length)
  let difference = 0
  let scale = 0
  for (let i = 0; i < actual.length; i++) {
    difference = Math.max(difference, Math.abs(actual[i]! - reference[i]!))
    scale = Math.max(scale, Math.abs(reference[i]!))
  }
  return difference / scale
}

/** Compares every choice of every layer and token; returns the largest error of a weight. */
function assertRouting(routing: PassRouting, golden: GoldenCase, name: string, config: ModelConfig): number {
  let worst = 0
  // The reference takes this factor after the experts are summed.
  const factor = config.scales.residual
  const isOrdered = config.router.bias !== 'choice'
  for (const [layer, tokens] of golden.router_topk.entries()) {
    for (const [token, expected] of tokens.entries()) {
      const k = expected.length
      const actual = [...routing.experts[layer]!.subarray(token * k, (token + 1) * k)]
      const where = `${name}, layer ${layer}, token ${token}`
      assert.deepEqual(
        [...actual].sort((a, b) => a - b),
        [...expected].sort((a, b) => a - b),
        where,
      )
      const weights = golden.router_weights[layer]![token]!
      for (const [i, expert] of expected.entries()) {
        const at = actual.indexOf(expert)
        const error = Math.abs(routing.weights[layer]![token * k + at]! / factor - weights[i]!)
        worst = Math.max(worst, error)
        // Where a bias or a mask goes into the choice, weights are in no order.
        if (!isOrdered) continue
        if (i > 0 && weights[i - 1]! - weights[i]! > ROUTER_GAP) assert.ok(actual.indexOf(expected[i - 1]!) < at, `${where}: order`)
      }
    }
  }
  assert.ok(worst <= ROUTER_WEIGHT_TOLERANCE, `${name}: a router weight is off by ${worst}`)
  return worst
}

/** Logits after the prompt when it is fed in the given pieces. */
export async function logitsInChunks(local: LocalModel, tokens: readonly number[], size: number): Promise<Float32Array> {
  const cache = local.trunk.createCache()
  let logits = new Float32Array(0)
  for (let at = 0; at < tokens.length; at += size)
    logits = (await feed(local, cache, tokens.slice(at, at + size))).logits as Float32Array<ArrayBuffer>
  assert.equal(cache.length, tokens.length)
  cache.close()
  return logits
}

/** The reference outputs of a checkpoint. */
export async function casesOf(name: CheckpointName): Promise<readonly GoldenCase[]> {
  const file = name === 'ember' ? 'ember-golden.json' : `${name}/golden.json`
  return (JSON.parse(await readFile(new URL(`../golden/${file}`, import.meta.url), 'utf8')) as { cases: GoldenCase[] }).cases
}

/** Compares a packed checkpoint with its reference outputs. */
export function goldenSuite(name: CheckpointName): void {
  describe(`${name}, float32`, { timeout: 120_000 }, () => {
    const teardowns: (() => Promise<void>)[] = []
    const suite = { after: (fn: () => Promise<void>) => void teardowns.push(fn) }
    let local: LocalModel
    let cases: readonly GoldenCase[]

    before(async () => {
      cases = await casesOf(name)
      const { model } = await packForTest(suite, name)
      local = await openLocally(engineForTest(suite), model)
    })
    after(async () => {
      for (const teardown of teardowns.reverse()) await teardown()
    })

    test('logits and router choices are those of the reference', async (t) => {
      let worstLogit = 0
      let worstWeight = 0
      for (const golden of cases) {
        const where = golden.name ?? `${golden.ids.length} tokens`
        const cache = local.trunk.createCache()
        const { logits, routing } = await feed(local, cache, golden.ids, 'all')
        cache.close()
        const vocab = local.trunk.config.vocabSize
        const last = logits.subarray((golden.ids.length - 1) * vocab)
        const errors: number[] = []
        if (golden.last_logits !== undefined) errors.push(relativeError(last, golden.last_logits))
        if (golden.all_logits !== undefined) errors.push(relativeError(logits, golden.all_logits.flat()))
        for (const [id, logit] of golden.top20 ?? []) errors.push(Math.abs(last[id]! - logit) / Math.abs(golden.top20![0]![1]))
        assert.ok(errors.length > 0)
        worstLogit = Math.max(worstLogit, ...errors)
        assert.ok(golden.router_gap > ROUTER_GAP, `${where}: the reference itself is undecided`)
        worstWeight = Math.max(worstWeight, assertRouting(routing, golden, where, local.trunk.config))
      }
      t.diagnostic(`largest relative error of a logit ${worstLogit.toExponential(1)}, of a router weight ${worstWeight.toExponential(1)}`)
      assert.ok(worstLogit <= F32_TOLERANCE)
    })

    test('greedy continuations are equal', async () => {
      for (const golden of cases) {
        assert.deepEqual(await generateGreedily(local, golden.ids, golden.greedy.length), golden.greedy, golden.name)
      }
    })

    test('one chunk, several chunks and token by token agree', async (t) => {
      let worst = 0
      for (const golden of cases) {
        const whole = await logitsInChunks(local, golden.ids, golden.ids.length)
        for (const size of [1, 2, 5]) worst = Math.max(worst, relativeError(await logitsInChunks(local, golden.ids, size), whole))
      }
      t.diagnostic(`largest relative difference ${worst.toExponential(1)}`)
      assert.ok(worst <= 1e-4)
    })

    test('several segments in one pass give what each gives alone', async (t) => {
      const prompts = cases.map((golden) => golden.ids)
      const alone = await Promise.all(prompts.map((tokens) => logitsInChunks(local, tokens, tokens.length)))
      const caches = prompts.map(() => local.trunk.createCache())
      const runTogether = async (segments: readonly { cache: KvCache; tokens: readonly number[] }[]): Promise<Float32Array[]> => {
        const pass = local.trunk.beginPass(segments)
        await runLayers(local, pass)
        let row = -1
        const lastRows = segments.map(({ tokens }) => (row += tokens.length))
        const logits = await pass.logits(lastRows)
        pass.commit()
        pass.close()
        const vocab = local.trunk.config.vocabSize
        return segments.map((_, i) => logits.slice(i * vocab, (i + 1) * vocab))
      }
      const together = await runTogether(prompts.map((tokens, i) => ({ cache: caches[i]!, tokens })))
      let worst = Math.max(...together.map((logits, i) => relativeError(logits, alone[i]!)))
      // And on top of caches of different lengths, as concurrent answers decode.
      const next = together.map((logits) => argmax(logits))
      const decoded = await runTogether(next.map((token, i) => ({ cache: caches[i]!, tokens: [token] })))
      for (const [i, tokens] of prompts.entries()) {
        const expected = await logitsInChunks(local, [...tokens, next[i]!], tokens.length)
        worst = Math.max(worst, relativeError(decoded[i]!, expected))
      }
      t.diagnostic(`largest relative difference ${worst.toExponential(1)}`)
      assert.ok(worst <= 1e-4)
    })
  })
}
