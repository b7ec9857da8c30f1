import { InvalidRequestError } from '../errors.ts'
import { Xoshiro128 } from './random.ts'

/** How the next token is chosen from its logits. */
export interface SamplerOptions {
  /** 0 is greedy. */
  readonly temperature: number
  /** 0 keeps all. */
  readonly topK: number
  /** 1 keeps all. */
  readonly topP: number
  /** 0 keeps all. */
  readonly minP: number
  /** 1 is none; counts prompt and answer (Hugging Face). */
  readonly repetitionPenalty: number
  /** Subtracted once per earlier occurrence in the answer (OpenAI). */
  readonly frequencyPenalty: number
  /** Subtracted if the token occurred in the answer (OpenAI). */
  readonly presencePenalty: number
  /** Equal seeds give equal draws. */
  readonly seed: number
}

export interface TokenProbability {
  readonly id: number
  /** Natural logarithm of the probability under the model itself: before penalties, temperature and filters. */
  readonly logprob: number
}

/** First guess of how many candidates hold the mass that top-p or min-p keeps; doubled until it does. */
const FIRST_CANDIDATES = 64

/**
 * Chooses the tokens of one answer. Order as in Hugging Face transformers: repetition penalty, then (as vLLM places them)
 * frequency and presence penalties, temperature, top-k, top-p, min-p; each filter sees what the one before left.
 * Greedy takes the lowest id among equals.
 */
export class Sampler {
  readonly #options: SamplerOptions
  readonly #random: Xoshiro128
  readonly #seen: Set<number>
  readonly #counts = new Map<number, number>()
  #scratch = new Float32Array(0)

  /** `prompt`: token ids the repetition penalty counts from the start. Throws `InvalidRequestError` for an option out of range. */
  constructor(options: SamplerOptions, prompt: readonly number[]) {
    checkOptions(options)
    this.#options = options
    this.#random = Xoshiro128.fromSeed(options.seed)
    this.#seen = new Set(prompt)
  }

  /** The next token of the answer for `logits` [vocab], which is left as it was. Throws when a logit is not a number. */
  next(logits: Float32Array): number {
    const penalised = this.#penalise(logits)
    const { temperature, topK, topP, minP } = this.#options
    const best = argmax(penalised)
    const id =
      temperature === 0 || topK === 1 ? best : this.#draw(candidates(penalised, penalised[best]!, { temperature, topK, topP, minP }))
    this.#seen.add(id)
    this.#counts.set(id, (this.#counts.get(id) ?? 0) + 1)
    return id
  }

  #penalise(logits: Float32Array): Float32Array {
    const { repetitionPenalty, frequencyPenalty, presencePenalty } = this.#options
    const repeats = repetitionPenalty !== 1
    const counts = frequencyPenalty !== 0 || presencePenalty !== 0
    if (!repeats && !counts) return logits
    if (this.#scratch.length !== logits.length) this.#scratch = new Float32Array(logits.length)
    const out = this.#scratch
    out.set(logits)
    if (repeats) {
      for (const id of this.#seen) {
        const logit = out[id]
        if (logit !== undefined) out[id] = logit < 0 ? logit * repetitionPenalty : logit / repetitionPenalty
      }
    }
    if (counts) {
      for (const [id, count] of this.#counts) out[id]! -= count * frequencyPenalty + presencePenalty
    }
    return out
  }

  #draw(kept: Candidates): number {
    let total = 0
    for (const weight of kept.weights) total += weight
    let rest = this.#random.nextFloat() * total
    for (let i = 0; i < kept.ids.length - 1; i++) {
      rest -= kept.weights[i]!
      if (rest < 0) return kept.ids[i]!
    }
    return kept.ids[kept.ids.length - 1]!
  }
}

/** Log-probabilities of the chosen token and of the `top` most likely ones (most likely first) under unmodified `logits`. */
export function logProbabilities(logits: Float32Array, id: number, top: number): { chosen: TokenProbability; top: TokenProbability[] } {
  const best = logits[argmax(logits)]!
  let sum = 0
  for (const logit of logits) sum += Math.exp(logit - best)
  const norm = best + Math.log(sum)
  return {
    chosen: { id, logprob: logits[id]! - norm },
    top: topIds(logits, top).map((other) => ({ id: other, logprob: logits[other]! - norm })),
  }
}

function checkOptions(options: SamplerOptions): void {
  const range = (param: string, value: number, low: number, high: number, rule: string): void => {
    if (!(value >= low && value <= high)) throw new InvalidRequestError(`${param} is ${value}; it must be ${rule}`, param)
  }
  range('temperature', options.temperature, 0, Number.MAX_VALUE, 'at least 0')
  range('top_k', options.topK, 0, Number.MAX_SAFE_INTEGER, 'a whole number of at least 0')
  range('top_p', options.topP, 0, 1, 'between 0 and 1')
  range('min_p', options.minP, 0, 1, 'between 0 and 1')
  range('repetition_penalty', options.repetitionPenalty, Number.MIN_VALUE, Number.MAX_VALUE, 'greater than 0')
  range('frequency_penalty', options.frequencyPenalty, -2, 2, 'between -2 and 2')
  range('presence_penalty', options.presencePenalty, -2, 2, 'between -2 and 2')
  range('seed', options.seed, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER, 'an integer that a double holds exactly')
}

interface Candidates {
  /** Most likely first. */
  readonly ids: readonly number[]
  /** Proportional to probability; the most likely has 1. */
  readonly weights: readonly number[]
}

function candidates(
  logits: Float32Array,
  best: number,
  { temperature, topK, topP, minP }: Pick<SamplerOptions, 'temperature' | 'topK' | 'topP' | 'minP'>,
): Candidates {
  const vocab = logits.length
  const limit = topK > 0 ? Math.min(topK, vocab) : vocab
  // Relative to the best, so that a tiny temperature can't overflow.
  const weightOf = (id: number): number => Math.exp((logits[id]! - best) / temperature)
  let ids: number[]
  let weights: number[]
  let total: number
  if (limit < vocab) {
    ids = topIds(logits, limit)
    weights = ids.map(weightOf)
    total = weights.reduce((sum, w) => sum + w, 0)
  } else {
    total = 0
    for (let id = 0; id < vocab; id++) total += weightOf(id)
    // Without filters every id is a candidate; with them the tail need not be sorted, only shown to be cut.
    let count = topP < 1 || minP > 0 ? Math.min(FIRST_CANDIDATES, vocab) : vocab
    for (;;) {
      ids = count === vocab && topP === 1 && minP === 0 ? Array.from({ length: vocab }, (_, id) => id) : topIds(logits, count)
      weights = ids.map(weightOf)
      const mass = weights.reduce((sum, w) => sum + w, 0)
      if (count === vocab || mass >= topP * total || weights[count - 1]! < minP) break
      count = Math.min(count * 4, vocab)
    }
  }
  // top-p keeps the shortest head whose mass reaches p, at least one.
  let kept = ids.length
  if (topP < 1) {
    let mass = 0
    for (kept = 0; kept < ids.length;) {
      mass += weights[kept++]!
      if (mass >= topP * total) break
    }
  }
  if (minP > 0) while (kept > 1 && weights[kept - 1]! < minP) kept--
  return kept === ids.length ? { ids, weights } : { ids: ids.slice(0, kept), weights: weights.slice(0, kept) }
}

/** Index of the largest value, the first of equals. */
export function argmax(values: Float32Array): number {
  let best = 0
  let highest = -Infinity
  for (let i = 0; i < values.length; i++) {
    const value = values[i]!
    if (value <= highest) continue
    if (Number.isNaN(value))
      throw new Error(`the logit of token ${i} is not a number: the model's weights or an expert's result are broken`)
    highest = value
    best = i
  }
  return best
}

/** Ids of the `count` largest values, largest first, lower id first among equals. */
function topIds(values: Float32Array, count: number): number[] {
  if (count <= 0) return []
  // A heap of the best so far, the worst of them on top.
  const worse = (a: number, b: number): boolean => values[a]! < values[b]! || (a > b && !(values[a]! > values[b]!))
  const heap: number[] = []
  const sink = (start: number): void => {
    for (let at = start; ;) {
      let child = 2 * at + 1
      if (child >= heap.length) return
      if (child + 1 < heap.length && worse(heap[child + 1]!, heap[child]!)) child++
      if (!worse(heap[child]!, heap[at]!)) return
      ;[heap[at], heap[child]] = [heap[child]!, heap[at]!]
      at = child
    }
  }
  for (let id = 0; id < values.length; id++) {
    if (heap.length < count) {
      heap.push(id)
      if (heap.length === count) for (let at = count >> 1; at >= 0; at--) sink(at)
    } else if (worse(heap[0]!, id)) {
      heap[0] = id
      sink(0)
    }
  }
  return heap.sort((a, b) => values[b]! - values[a]! || a - b)
}
