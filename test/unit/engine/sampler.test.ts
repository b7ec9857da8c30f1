import assert from 'node:assert/strict'
import { test } from 'node:test'
import { argmax, logProbabilities, Sampler, type SamplerOptions } from '../../../node/engine/sampler.ts'

const NEUTRAL: SamplerOptions = Object.freeze({
  temperature: 1,
  topK: 0,
  topP: 1,
  minP: 0,
  repetitionPenalty: 1,
  frequencyPenalty: 0,
  presencePenalty: 0,
  seed: 1,
})

/** Logits of tokens with these probabilities. */
const logitsOf = (...probabilities: number[]): Float32Array => Float32Array.from(probabilities, (p) => Math.log(p))

/** Share of each token in `draws` draws with a fixed seed; penalties must be neutral. */
function shares(logits: Float32Array, options: Partial<SamplerOptions>, draws = 20_000): number[] {
  const sampler = new Sampler({ ...NEUTRAL, ...options }, [])
  const counts = Array.from(logits, () => 0)
  for (let i = 0; i < draws; i++) counts[sampler.next(logits)]!++
  return counts.map((count) => count / draws)
}

function assertShares(actual: readonly number[], expected: readonly number[]): void {
  // Four standard deviations of 20,000 draws at p = 0.5.
  for (const [id, share] of actual.entries())
    assert.ok(Math.abs(share - expected[id]!) < 0.0142, `token ${id}: ${share}, expected ${expected[id]}`)
}

test('greedy takes the best, the lowest id among equals', () => {
  const sampler = new Sampler({ ...NEUTRAL, temperature: 0 }, [])
  assert.equal(sampler.next(Float32Array.of(1, 3, 3, 2)), 1)
  assert.equal(new Sampler({ ...NEUTRAL, topK: 1 }, []).next(Float32Array.of(-5, -1, -3)), 1)
})

test('draws follow the probabilities', () => {
  assertShares(shares(logitsOf(0.5, 0.3, 0.15, 0.05), {}), [0.5, 0.3, 0.15, 0.05])
})

test('temperature sharpens and flattens, even where it is tiny', () => {
  const logits = logitsOf(0.6, 0.3, 0.1)
  const squares = [0.36 / 0.46, 0.09 / 0.46, 0.01 / 0.46]
  assertShares(shares(logits, { temperature: 0.5 }), squares)
  assertShares(shares(Float32Array.of(80, 79, -80), { temperature: 1e-30 }), [1, 0, 0])
})

test('top-k keeps the k best', () => {
  assertShares(shares(logitsOf(0.1, 0.4, 0.2, 0.3), { topK: 2 }), [0, 4 / 7, 0, 3 / 7])
  assertShares(shares(logitsOf(0.1, 0.4, 0.2, 0.3), { topK: 99 }), [0.1, 0.4, 0.2, 0.3])
})

test('top-p keeps the shortest head that reaches the mass, at least one', () => {
  assertShares(shares(logitsOf(0.1, 0.4, 0.2, 0.3), { topP: 0.65 }), [0, 4 / 7, 0, 3 / 7])
  assertShares(shares(logitsOf(0.1, 0.4, 0.2, 0.3), { topP: 0.71 }), [0, 4 / 9, 2 / 9, 3 / 9])
  assertShares(shares(logitsOf(0.1, 0.4, 0.2, 0.3), { topP: 0 }), [0, 1, 0, 0])
})

test('min-p keeps what is likely enough beside the best', () => {
  assertShares(shares(logitsOf(0.5, 0.3, 0.15, 0.05), { minP: 0.5 }), [5 / 8, 3 / 8, 0, 0])
})

test('the filters run in the order top-k, top-p, min-p, each on what is left', () => {
  // After top-k 3: 4/9, 3/9, 2/9; top-p 0.7 of that keeps two, where 0.7 of the whole would keep two as well but 0.75 three.
  assertShares(shares(logitsOf(0.1, 0.4, 0.2, 0.3), { topK: 3, topP: 0.75 }), [0, 4 / 7, 0, 3 / 7])
  assertShares(shares(logitsOf(0.1, 0.4, 0.2, 0.3), { topK: 3, topP: 0.8, minP: 0.8 }), [0, 1, 0, 0])
})

test('top-p and min-p are exact where more candidates are kept than first looked at', () => {
  const vocab = 300
  const flat = new Float32Array(vocab)
  const seen = (options: Partial<SamplerOptions>): number => shares(flat, options, 4000).filter((share) => share > 0).length
  assert.equal(seen({ topP: 0.5 }), vocab / 2)
  assert.equal(seen({ minP: 1 }), vocab)
})

test('repetition penalty counts prompt and answer; it lowers positive and negative logits', () => {
  const options = { ...NEUTRAL, temperature: 0, repetitionPenalty: 2 }
  assert.equal(new Sampler(options, [0]).next(Float32Array.of(3, 2, -1)), 1)
  assert.equal(new Sampler(options, [0]).next(Float32Array.of(-1, -1.5, -9)), 1)
  const sampler = new Sampler(options, [])
  assert.equal(sampler.next(Float32Array.of(3, 2)), 0)
  assert.equal(sampler.next(Float32Array.of(3, 2)), 1)
  // A prompt token beyond the logits (a padded vocabulary) changes nothing.
  assert.equal(new Sampler(options, [99]).next(Float32Array.of(3, 2)), 0)
})

test('frequency penalty grows with each occurrence, presence penalty does not; the prompt does not count', () => {
  const logits = Float32Array.of(1.5, 1)
  const run = (options: Partial<SamplerOptions>): number[] => {
    const sampler = new Sampler({ ...NEUTRAL, temperature: 0, ...options }, [0, 0, 0])
    return [1, 2, 3, 4].map(() => sampler.next(logits))
  }
  assert.deepEqual(run({ frequencyPenalty: 0.3 }), [0, 0, 1, 0])
  assert.deepEqual(run({ presencePenalty: 1 }), [0, 1, 0, 0])
  assert.deepEqual([...logits], [1.5, 1], 'the logits are left as they were')
})

test('equal seeds give equal answers', () => {
  const logits = new Float32Array(50)
  const run = (seed: number): number[] => {
    const sampler = new Sampler({ ...NEUTRAL, seed }, [])
    return Array.from({ length: 20 }, () => sampler.next(logits))
  }
  assert.deepEqual(run(3), run(3))
  assert.notDeepEqual(run(3), run(4))
})

test('log-probabilities are those of the model, most likely first', () => {
  const { chosen, top } = logProbabilities(logitsOf(0.1, 0.6, 0.3), 0, 2)
  assert.equal(chosen.id, 0)
  assert.ok(Math.abs(chosen.logprob - Math.log(0.1)) < 1e-6)
  assert.deepEqual(
    top.map((t) => t.id),
    [1, 2],
  )
  assert.ok(Math.abs(top[0]!.logprob - Math.log(0.6)) < 1e-6)
  assert.deepEqual(logProbabilities(Float32Array.of(1, 2), 1, 0).top, [])
  assert.equal(logProbabilities(Float32Array.of(1, 2), 1, 9).top.length, 2)
})

test('options out of range are refused by name', () => {
  const wrong: [Partial<SamplerOptions>, string][] = [
    [{ temperature: -1 }, 'temperature'],
    [{ temperature: Number.NaN }, 'temperature'],
    [{ topK: -1 }, 'top_k'],
    [{ topP: 1.1 }, 'top_p'],
    [{ minP: -0.1 }, 'min_p'],
    [{ repetitionPenalty: 0 }, 'repetition_penalty'],
    [{ frequencyPenalty: 3 }, 'frequency_penalty'],
    [{ presencePenalty: -3 }, 'presence_penalty'],
    [{ seed: Number.POSITIVE_INFINITY }, 'seed'],
  ]
  for (const [options, param] of wrong) {
    assert.throws(() => new Sampler({ ...NEUTRAL, ...options }, []), { name: 'InvalidRequestError', param })
  }
})

test('broken logits are an error, not a token', () => {
  const logits = Float32Array.of(1, Number.NaN)
  assert.throws(() => argmax(logits), /token 1 is not a number/)
  assert.throws(() => new Sampler(NEUTRAL, []).next(logits), /not a number/)
})
