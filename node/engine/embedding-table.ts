import { closeSync, openSync, readSync } from 'node:fs'
import type { EmbeddingSource } from './worker-messages.ts'

/** Rows of the embedding matrix, read from the blob as they are needed: the page cache holds the hot ones, and no copy of the matrix is made. */
export class EmbeddingTable {
  readonly #file: number
  readonly #offset: number
  readonly #width: number
  readonly #half: boolean
  readonly #row: Uint8Array<ArrayBuffer>
  readonly #numbers: Float32Array | Float16Array

  readonly #scale: number

  /** `scale`: factor of all rows. */
  constructor(source: EmbeddingSource, scale: number) {
    this.#scale = scale
    this.#half = source.tensor.type === 'f16'
    this.#width = source.tensor.shape[1]!
    this.#offset = source.tensor.offset
    this.#row = new Uint8Array(this.#width * (this.#half ? 2 : 4))
    this.#numbers = this.#half ? new Float16Array(this.#row.buffer) : new Float32Array(this.#row.buffer)
    this.#file = openSync(source.path, 'r')
  }

  /** Writes the rows of the tokens: [tokens, hidden]. */
  read(tokens: readonly number[], out: Float32Array): void {
    for (const [i, token] of tokens.entries()) {
      const bytes = this.#row.byteLength
      if (readSync(this.#file, this.#row, 0, bytes, this.#offset + token * bytes) !== bytes) {
        throw new Error(`the embedding of token ${token} is missing from its blob`)
      }
      out.set(this.#numbers, i * this.#width)
    }
    if (this.#scale !== 1) for (let i = 0; i < out.length; i++) out[i]! *= this.#scale
  }

  close(): void {
    closeSync(this.#file)
  }
}
