import type { KvCache } from '../engine/engine.ts'

/** A sequence whose keys and values are kept: `tokens` are those that the cache holds. */
export interface KeptSequence {
  /** Sequences of different kinds were computed in different ways and don't mix. */
  readonly kind: string
  readonly tokens: readonly number[]
  readonly cache: KvCache
  /** Of the keys and values, as if it shared none. */
  readonly bytes: number
}

/** Sequences remembered; each lookup compares with all of them. */
const MAX_KEPT = 64

/** Keys and values of past queries, for queries that begin alike; the least recently used goes first. */
export class PrefixStore {
  readonly #maxBytes: number
  /** Least recently used first. */
  readonly #kept: KeptSequence[] = []

  constructor(init: { readonly maxBytes: number }) {
    this.#maxBytes = init.maxBytes
  }

  /** The sequence that has the longest beginning in common with `tokens`, at least `atLeast`. */
  find(kind: string, tokens: readonly number[], atLeast: number): { readonly cache: KvCache; readonly length: number } | null {
    let best = -1
    let length = atLeast - 1
    for (const [i, entry] of this.#kept.entries()) {
      const common = entry.kind === kind ? commonLength(entry.tokens, tokens) : 0
      if (common > length) {
        best = i
        length = common
      }
    }
    if (best < 0) return null
    const [entry] = this.#kept.splice(best, 1)
    this.#kept.push(entry!)
    return { cache: entry!.cache, length }
  }

  /** Takes over the cache: keeps it, or closes it where another sequence goes as far. */
  keep(sequence: KeptSequence): void {
    const { kind, tokens, cache } = sequence
    for (const entry of this.#kept.filter((other) => other.kind === kind)) {
      const common = commonLength(entry.tokens, tokens)
      if (common === tokens.length) {
        cache.close()
        return
      }
      if (common === entry.tokens.length) this.#drop(entry)
    }
    this.#kept.push(sequence)
    while (this.#kept.length > MAX_KEPT || this.#bytes > this.#maxBytes) this.#drop(this.#kept[0]!)
  }

  /** Gives the memory of the least recently used sequence back, but not that of `spared`; false when there is none. */
  forgetOldest(spared?: KvCache): boolean {
    const oldest = this.#kept.find(({ cache }) => cache !== spared)
    if (oldest === undefined) return false
    this.#drop(oldest)
    return true
  }

  get #bytes(): number {
    return this.#kept.reduce((sum, { bytes }) => sum + bytes, 0)
  }

  #drop(entry: KeptSequence): void {
    this.#kept.splice(this.#kept.indexOf(entry), 1)
    entry.cache.close()
  }
}

/** How many tokens two sequences have in common at their beginning. */
export function commonLength(a: readonly number[], b: readonly number[]): number {
  const most = Math.min(a.length, b.length)
  let length = 0
  while (length < most && a[length] === b[length]) length++
  return length
}
