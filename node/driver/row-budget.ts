import type { ModelConfig } from '../model/model-config.ts'

/** Prompt tokens of a pass that nobody decodes in: enough to amortise the round trips. */
const MAX_ROWS = 128
/** Bytes of rows that one host may have to send back for a layer; half the frame limit. */
const MAX_REPLY_BYTES = 8 * 1024 * 1024
/** How long a pass with decoding queries in it may be held up by a piece of a prompt, and the least that a piece is all the same. */
const HELD_UP_MS = 100
const MIN_PIECE = 8

/** Divides the rows of a pass among the sequences: those that decode get theirs, prompts share what is left. */
export class RowBudget {
  readonly #most: number
  /** Rows of prompts beside rows that decode; follows what passes take on this machine. */
  #beside = MIN_PIECE

  constructor({ hiddenSize, expertsPerToken }: Pick<ModelConfig, 'hiddenSize' | 'expertsPerToken'>) {
    this.#most = Math.max(1, Math.min(MAX_ROWS, Math.floor(MAX_REPLY_BYTES / (hiddenSize * 4 * expertsPerToken))))
  }

  /** Rows of each sequence, given how many tokens each has pending. */
  divide(pending: readonly number[]): number[] {
    const decoding = pending.filter((tokens) => tokens === 1).length
    let left = decoding === 0 ? this.#most : Math.max(0, Math.min(this.#most - decoding, this.#beside))
    let single = Math.min(decoding, this.#most)
    let prompts = pending.length - decoding
    return pending.map((tokens) => {
      if (tokens === 1) return single-- > 0 ? 1 : 0
      const rows = Math.min(tokens, Math.ceil(left / prompts))
      left -= rows
      prompts--
      return rows
    })
  }

  /** Hears what a pass took, to find how many rows of prompts hold up the others long enough but not longer. */
  took(parts: readonly { readonly tokens: readonly number[] }[], ms: number): void {
    const decoding = parts.filter(({ tokens }) => tokens.length === 1).length
    const rows = parts.reduce((sum, { tokens }) => sum + tokens.length, 0) - decoding
    if (decoding === 0 || rows === 0) return
    const wanted = (rows * HELD_UP_MS) / ms
    this.#beside = Math.round(Math.min(this.#most, Math.max(MIN_PIECE, Math.min(wanted, 2 * this.#beside))))
  }
}
