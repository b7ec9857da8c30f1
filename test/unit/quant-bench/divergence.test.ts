import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Divergence } from '../../../node/quant-bench/divergence.ts'

const near = (actual: number, expected: number): void => assert.ok(Math.abs(actual - expected) < 1e-6, `${actual} instead of ${expected}`)
/** Logits of these probabilities, shifted: a shift says nothing. */
const logits = (shift: number, ...probabilities: number[]): Float32Array => Float32Array.from(probabilities, (p) => Math.log(p) + shift)

test('a model compared with itself, shifted or not, is no way off', () => {
  const divergence = new Divergence()
  divergence.add(logits(0, 0.5, 0.25, 0.25), logits(3, 0.5, 0.25, 0.25), 0)
  const report = divergence.report()
  for (const value of [report.logitError, report.klNats, report.increase, report.increaseError]) near(value, 0)
  near(report.sameBest, 1)
  near(report.perplexity, 2)
})

test('divergence, perplexity and agreement are those of their definitions', () => {
  const divergence = new Divergence()
  divergence.add(logits(0, 0.5, 0.5), logits(0, 0.25, 0.75), 0)
  divergence.add(logits(0, 0.9, 0.1), logits(1, 0.9, 0.1), 1)
  const report = divergence.report()
  assert.equal(report.tokens, 2)
  near(report.klNats, (0.5 * Math.log(0.5 / 0.25) + 0.5 * Math.log(0.5 / 0.75)) / 2)
  near(report.referencePerplexity, Math.exp(-(Math.log(0.5) + Math.log(0.1)) / 2))
  near(report.perplexity, Math.exp(-(Math.log(0.25) + Math.log(0.1)) / 2))
  near(report.increase, report.perplexity / report.referencePerplexity - 1)
  assert.equal(report.sameBest, 0.5)
  // Losses rise by ln 2 and 0: mean and deviation are half of ln 2.
  near(report.increaseError, (1 + report.increase) * (Math.log(2) / 2 / Math.sqrt(2)))
})

test('nothing to compare is an error', () => {
  assert.throws(() => new Divergence().report(), RangeError)
})
