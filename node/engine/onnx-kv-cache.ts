import { MeshError } from '../../protocols/wire/errors.ts'
import { KvFullError } from '../errors.ts'
import type { KvCache } from './engine.ts'
import type { KvBlocks } from './kv-blocks.ts'
import { BLOCK_TOKENS } from './kv-shape.ts'

/** What the caches of one trunk share. */
export interface KvCacheContext {
  readonly maxTokens: number
  readonly blocks: KvBlocks
  readonly open: Set<OnnxKvCache>
  /** Copies a block that no pass writes to into one of which nobody knows yet. */
  readonly copyBlock: (from: number, to: number) => void
}

/**
 * The blocks of one sequence. It writes only into blocks of its own: forks share whole blocks, and a shared one is replaced before it is
 * written to.
 */
export class OnnxKvCache implements KvCache {
  readonly context: KvCacheContext
  readonly #table: number[] = []
  readonly #expected: number
  #length = 0
  #inPass = false
  #closed = false

  /** `expected`: tokens that it will hold, as far as is known; they get one run of blocks if there is one. */
  constructor(context: KvCacheContext, expected: number) {
    this.context = context
    this.#expected = expected
    context.open.add(this)
  }

  get length(): number {
    return this.#length
  }

  get closed(): boolean {
    return this.#closed
  }

  get inPass(): boolean {
    return this.#inPass
  }

  truncate(length: number): void {
    this.#mustHold(length, 'truncated to')
    if (this.#inPass) throw new MeshError("a cache can't be truncated while it is part of a pass")
    this.#length = length
  }

  fork(length: number, expected = length): OnnxKvCache {
    this.#mustHold(length, 'forked at')
    if (this.#closed) throw new MeshError('the cache is closed')
    const { blocks, copyBlock } = this.context
    const fork = new OnnxKvCache(this.context, expected)
    const whole = Math.floor(length / BLOCK_TOKENS)
    for (const block of this.#table.slice(0, whole)) {
      blocks.share(block)
      fork.#table.push(block)
    }
    fork.#length = whole * BLOCK_TOKENS
    if (length > fork.#length) {
      try {
        fork.reserve(length)
        copyBlock(this.#table[whole]!, fork.#table[whole]!)
      } catch (error) {
        fork.close()
        throw error
      }
    }
    fork.#length = length
    return fork
  }

  close(): void {
    if (this.#closed) return
    this.#closed = true
    this.context.open.delete(this)
    // A pass under way still writes to the blocks.
    if (!this.#inPass) this.#drop(0)
  }

  /** Takes blocks for `tokens` more and returns those of all positions up to them. Throws `KvFullError`. */
  enterPass(tokens: number): Int32Array {
    this.reserve(this.#length + tokens)
    this.#inPass = true
    return Int32Array.from(this.#table.slice(0, Math.ceil((this.#length + tokens) / BLOCK_TOKENS)))
  }

  extend(tokens: number): void {
    this.#length += tokens
  }

  leavePass(): void {
    this.#inPass = false
    if (this.#closed) this.#drop(0)
  }

  /** Gives back what was taken ahead. */
  trim(): void {
    if (!this.#inPass) this.#drop(Math.ceil(this.#length / BLOCK_TOKENS))
  }

  reserve(tokens: number): void {
    const { blocks, copyBlock, maxTokens } = this.context
    const needed = Math.ceil(tokens / BLOCK_TOKENS)
    // Every block from `length` on must be its own.
    if (needed > this.#table.length) {
      const ahead = Math.ceil(Math.min(maxTokens, Math.max(this.#expected, 2 * this.#table.length * BLOCK_TOKENS)) / BLOCK_TOKENS)
      const taken = this.#take(needed - this.#table.length, ahead - this.#table.length)
      this.#table.push(...taken)
    }
    for (let i = Math.floor(this.#length / BLOCK_TOKENS); i < needed; i++) {
      const shared = this.#table[i]!
      if (!blocks.isShared(shared)) continue
      const [own] = this.#take(1, 1)
      try {
        copyBlock(shared, own!)
      } catch (error) {
        blocks.release(own!)
        throw error
      }
      blocks.release(shared)
      this.#table[i] = own!
    }
  }

  /** `wanted` blocks if there is room, else `needed`, for which other caches give up what they took ahead. */
  #take(needed: number, wanted: number): number[] {
    const { blocks, open } = this.context
    const last = this.#table.at(-1) ?? null
    const ample = wanted > needed ? blocks.take(wanted, last) : null
    if (ample !== null) return ample
    const enough = blocks.take(needed, last)
    if (enough !== null) return enough
    for (const cache of open) if (cache !== this) cache.trim()
    const rest = blocks.take(needed, last)
    if (rest === null) throw new KvFullError(needed * blocks.blockBytes, blocks.free * blocks.blockBytes)
    return rest
  }

  #drop(from: number): void {
    for (const block of this.#table.splice(from)) this.context.blocks.release(block)
  }

  #mustHold(length: number, what: string): void {
    if (!Number.isInteger(length) || length < 0 || length > this.#length) {
      throw new RangeError(`a cache of ${this.#length} tokens can't be ${what} ${length}`)
    }
  }
}
