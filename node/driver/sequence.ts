import type { KvCache } from '../engine/engine.ts'
import type { CancelScope, Cancellable } from './cancel-scope.ts'
import type { Tally } from './tally.ts'

export interface SequenceInit {
  readonly tally: Tally
  /** Of the query: cancelling it ends what the sequence waits for at once. */
  readonly scope: CancelScope
  /** Tokens that it will have in the end, as far as is known. */
  readonly expectedTokens: number
}

interface Wanted {
  readonly resolve: (logits: Float32Array) => void
  readonly reject: (error: Error) => void
}

/** The tokens of one query, and how far their keys and values are computed. */
export class Sequence implements Cancellable {
  readonly tally: Tally
  readonly scope: CancelScope
  readonly expectedTokens: number
  readonly tokens: number[] = []
  /** null before the first pass, and after it gave its memory to another sequence: then all tokens are computed anew. */
  cache: KvCache | null = null
  /** In a pass now. */
  busy = false
  #wanted: Wanted | null = null
  /** Of the last answer; its memory is reused. */
  #logits: Float32Array | null = null

  constructor(init: SequenceInit) {
    this.tally = init.tally
    this.scope = init.scope
    this.expectedTokens = init.expectedTokens
  }

  /** Sequences of one kind can share passes and each other's keys and values. */
  get kind(): string {
    return `${this.tally.wire} ${this.tally.combine}`
  }

  /** Whether it waits for a pass. */
  get isReady(): boolean {
    return this.#wanted !== null && !this.busy
  }

  /** Whether somebody waits for its logits. */
  get isWanted(): boolean {
    return this.#wanted !== null
  }

  /** Tokens whose keys and values are there. */
  get computed(): number {
    return this.cache?.length ?? 0
  }

  get pending(): number {
    return this.tokens.length - this.computed
  }

  want(tokens: readonly number[]): Promise<Float32Array> {
    this.scope.throwIfCancelled()
    for (const token of tokens) this.tokens.push(token)
    return new Promise((resolve, reject) => {
      this.#wanted = { resolve, reject }
      this.scope.add(this)
    })
  }

  /** Gives its memory back; what it held is computed anew when it goes on. */
  forget(): void {
    this.cache?.close()
    this.cache = null
  }

  /** Copies the logits: whoever waits gets them lent until the next answer. */
  answer(logits: Float32Array): void {
    const wanted = this.#settle()
    if (wanted === null) return
    this.#logits ??= new Float32Array(logits.length)
    this.#logits.set(logits)
    wanted.resolve(this.#logits)
  }

  fail(error: Error): void {
    this.#settle()?.reject(error)
  }

  cancel(reason: Error): void {
    this.fail(reason)
  }

  #settle(): Wanted | null {
    const wanted = this.#wanted
    this.#wanted = null
    this.scope.delete(this)
    return wanted
  }
}
