import { InvalidRequestError } from '../errors.ts'
import { Sampler } from '../engine/sampler.ts'
import type { Tokenizer } from '../model/tokenizer.ts'
import type { LocalModel } from './local-model.ts'

/** Characters of one piece of a text: short enough for every tokenizer to fit it into a small context. */
const PIECE_CHARACTERS = 800

/** Token sequences to compare models on. */
export interface TextInit {
  /** Of all sequences together. */
  readonly tokens: number
  /** Of one sequence, at most. */
  readonly window: number
}

/**
 * What the model writes when it is asked nothing: sequences at temperature 1 from a seed. Each begins with the model's end token, which
 * is what stands between texts.
 */
export async function ownWriting(model: LocalModel, init: TextInit & { readonly seed: number }): Promise<number[][]> {
  const { config } = model.trunk
  const first = config.eosTokenIds[0] ?? 0
  const options = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, frequencyPenalty: 0, presencePenalty: 0 }
  const count = Math.max(1, Math.ceil(init.tokens / init.window))
  const sequences = Array.from({ length: count }, (_, i) => ({
    sampler: new Sampler({ ...options, seed: init.seed + i }, []),
    cache: model.trunk.createCache(init.window),
    written: [first],
  }))
  try {
    for (let length = 1; length < init.window; length++) {
      const logits = await model.feed(sequences.map(({ cache, written }) => ({ cache, tokens: written.slice(-1) })))
      for (const [i, { sampler, written }] of sequences.entries()) {
        written.push(sampler.next(logits.subarray(i * config.vocabSize, (i + 1) * config.vocabSize)))
      }
    }
    return sequences.map(({ written }) => written)
  } finally {
    for (const { cache } of sequences) cache.close()
  }
}

/** Pieces of a text as the model's tokens. Throws `InvalidRequestError` when it has no two tokens. */
export function textTokens(tokenizer: Tokenizer, text: string, init: TextInit): number[][] {
  const sequences: number[][] = []
  let left = init.tokens
  for (let from = 0; from < text.length && left > 0;) {
    const end = from + PIECE_CHARACTERS < text.length ? text.lastIndexOf(' ', from + PIECE_CHARACTERS) : text.length
    const to = end > from ? end : from + PIECE_CHARACTERS
    const tokens = tokenizer.encode(text.slice(from, to)).slice(0, Math.min(init.window, left))
    from = to
    if (tokens.length < 2) continue
    sequences.push(tokens)
    left -= tokens.length
  }
  if (sequences.length === 0) throw new InvalidRequestError('the text is too short to compare anything: give at least a sentence')
  return sequences
}
