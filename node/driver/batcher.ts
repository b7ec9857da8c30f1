import { Priority } from '../../protocols/expert/index.ts'
import { isMeshError } from '../../protocols/wire/errors.ts'
import { BusyError } from '../errors.ts'
import type { KvCache, TrunkPass } from '../engine/engine.ts'
import { freeMemory } from '../../protocols/wire/free-memory.ts'
import { CancelScope } from './cancel-scope.ts'
import type { DrivenModel } from './generation.ts'
import { walkLayers } from './layer-loop.ts'
import type { LayerLoopComponents } from './layer-loop.ts'
import { PassShares } from './pass-shares.ts'
import { commonLength } from './prefix-store.ts'
import type { PrefixStore } from './prefix-store.ts'
import { RowBudget } from './row-budget.ts'
import { Sequence } from './sequence.ts'
import type { SequenceInit } from './sequence.ts'
import { TwoBatchOverlap } from './two-batch-overlap.ts'

/** Common beginnings shorter than this are computed anew: the bookkeeping would not pay. */
const MIN_SHARED_TOKENS = 16

interface Beginning {
  readonly cache: KvCache
  readonly length: number
}

/** The tokens of one sequence in a pass. */
interface Part {
  readonly sequence: Sequence
  readonly cache: KvCache
  readonly tokens: readonly number[]
  /** Whether these are the last tokens that the sequence waits for. */
  readonly isLast: boolean
}

/**
 * Advances the queries of one model together: each pass takes a row of every query that decodes and a piece of the prompts that wait, so
 * that hosts are called once per layer for all of them; where it gains, those that decode go in two passes that overlap. Queries join and
 * leave between passes. One that fails or is cancelled leaves the others as they are: a pass that fails is repeated for each of its queries
 * alone.
 */
export class Batcher {
  readonly #components: LayerLoopComponents
  readonly #model: DrivenModel
  readonly #rows: RowBudget
  readonly #prefixes: PrefixStore
  /** Oldest first. */
  readonly #open: Sequence[] = []
  readonly #overlap = new TwoBatchOverlap()
  /** Passes under way, but for those of queries that go alone. */
  #walks = 0
  #lastKind = ''
  #turn: NodeJS.Immediate | null = null
  #passes = 0

  /** `prefixes` is shared with other models, since the memory is. */
  constructor(components: LayerLoopComponents, model: DrivenModel, prefixes: PrefixStore) {
    this.#components = components
    this.#model = model
    this.#rows = new RowBudget(model.manifest.config)
    this.#prefixes = prefixes
  }

  open(init: SequenceInit): Sequence {
    const sequence = new Sequence(init)
    this.#open.push(sequence)
    return sequence
  }

  /**
   * Appends tokens and resolves with the logits after the last of them, lent until the next call for the sequence. Rejects with what the
   * query was cancelled with, with what `Dispatcher.run` throws, or with `BusyError` when there is no memory for its keys and values.
   */
  advance(sequence: Sequence, tokens: readonly number[]): Promise<Float32Array> {
    const logits = sequence.want(tokens)
    this.#poke()
    return logits
  }

  /** Ends a sequence; what it computed is kept for others that begin alike. */
  close(sequence: Sequence): void {
    const place = this.#open.indexOf(sequence)
    if (place >= 0) this.#open.splice(place, 1)
    if (!sequence.busy) this.#keep(sequence)
    if (this.#open.length === 0) this.#overlap.interrupt()
    // The others need not wait for it any longer.
    this.#poke()
  }

  /** Begins a pass as soon as every sequence waits for one, or in the next turn of the event loop without those that don't. */
  #poke(): void {
    if (!this.#mayBegin() || !this.#open.some((sequence) => sequence.isReady)) return
    if (this.#open.every((sequence) => sequence.isReady || sequence.busy)) {
      if (this.#turn !== null) clearImmediate(this.#turn)
      this.#turn = null
      void this.#step()
    } else {
      this.#turn ??= setImmediate(() => {
        this.#turn = null
        if (this.#mayBegin()) void this.#step()
      })
    }
  }

  #mayBegin(): boolean {
    return this.#walks < this.#ways()
  }

  /** Passes that may be under way. A piece of a prompt goes with all others: a second pass beside it would wait for it in every layer. */
  #ways(): 1 | 2 {
    return this.#open.every(({ pending }) => pending <= 1) ? this.#overlap.ways(this.#open.length) : 1
  }

  /** One pass for as many sequences as go together. Never rejects. */
  async #step(): Promise<void> {
    const begun = this.#begin()
    if (begun === null) return
    this.#walks++
    const { parts, pass } = begun
    const startedAt = performance.now()
    const walk = this.#walk(parts, pass)
    // Those that this pass left out may go beside it.
    this.#poke()
    const failure = await walk
    const now = performance.now()
    this.#rows.took(parts, now - startedAt)
    if (failure === null && parts.every(({ tokens }) => tokens.length === 1)) this.#overlap.took(parts.length, this.#open.length, now)
    else this.#overlap.interrupt()
    this.#walks--
    if (failure !== null && parts.length > 1) for (const part of parts) void this.#alone(part)
    else for (const { sequence } of parts) this.#leave(sequence, failure)
    this.#poke()
  }

  /** The tokens of one sequence of a pass that failed, in a pass of their own beside those of the others. Never rejects. */
  async #alone({ sequence, ...part }: Part): Promise<void> {
    try {
      const failure = sequence.isWanted ? await this.#walk([{ ...part, sequence }], this.#model.trunk.beginPass([part])) : null
      this.#leave(sequence, failure)
    } catch (error) {
      this.#leave(sequence, asBusy(error as Error))
    }
    this.#poke()
  }

  /** Takes a pass through the layers and answers those that wait for its logits; returns what it failed with. */
  async #walk(parts: readonly Part[], pass: TrunkPass): Promise<Error | null> {
    const { id, digest, manifest } = this.#model
    const { layers, vocabSize } = manifest.config
    const scope = new PassScope(parts)
    let firstRow = 0
    const shares = parts.map(({ sequence, tokens }) => {
      const share = { tally: sequence.tally, firstRow, rows: tokens.length }
      firstRow += tokens.length
      return share
    })
    try {
      await walkLayers(this.#components, this.#model, pass, {
        model: id,
        digest,
        priority: parts.some(({ tokens }) => tokens.length === 1) ? Priority.decode : Priority.prefill,
        exploreSeed: this.#passes++ * layers,
        tally: shares.length === 1 ? shares[0]!.tally : new PassShares(shares),
        scope: scope.own,
      })
      const ends = parts.flatMap(({ isLast, sequence }, i) =>
        isLast ? [{ sequence, row: shares[i]!.firstRow + shares[i]!.rows - 1 }] : [],
      )
      const logits = ends.length > 0 ? await pass.logits(ends.map(({ row }) => row)) : null
      pass.commit()
      for (const { tally } of shares) tally.passes++
      for (const [i, { sequence }] of ends.entries()) sequence.answer(logits!.subarray(i * vocabSize, (i + 1) * vocabSize))
      if (logits !== null) freeMemory(logits)
      return null
    } catch (error) {
      return error as Error
    } finally {
      scope.end()
      pass.close()
    }
  }

  #leave(sequence: Sequence, failure: Error | null): void {
    sequence.busy = false
    if (failure !== null) sequence.fail(failure)
    if (!this.#open.includes(sequence)) this.#keep(sequence)
  }

  #keep(sequence: Sequence): void {
    const { cache, kind, tokens } = sequence
    sequence.cache = null
    if (cache === null) return
    if (cache.length < MIN_SHARED_TOKENS) cache.close()
    else {
      const bytes = cache.length * this.#model.trunk.kv.tokenBytes
      this.#prefixes.keep({ kind: this.#prefixKind(kind), tokens: tokens.slice(0, cache.length), cache, bytes })
    }
  }

  #prefixKind(kind: string): string {
    return `${this.#model.id} ${kind}`
  }

  /** Composes a pass that there is memory for and marks its sequences as busy; null when nobody can advance. */
  #begin(): { readonly parts: readonly Part[]; readonly pass: TrunkPass } | null {
    const postponed = new Set<Sequence>()
    for (;;) {
      const parts = this.#compose(postponed)
      const [first] = parts
      if (first === undefined) return null
      try {
        const pass = this.#model.trunk.beginPass(parts)
        for (const { sequence } of parts) sequence.busy = true
        return { parts, pass }
      } catch (error) {
        // Whoever came first goes on at the expense of the others, until it is alone or the pass fits.
        if (isMeshError(error, 'KvFullError')) {
          if (this.#makeRoom(first.sequence, postponed)) continue
          // The other pass holds the memory for as long as it takes.
          if (this.#walks > 0) return null
        }
        for (const part of parts) {
          part.sequence.busy = true
          void this.#alone(part)
        }
      }
    }
  }

  /** Rows of those that wait, oldest first: all that decode, or their half, and pieces of prompts. */
  #compose(postponed: ReadonlySet<Sequence>): Part[] {
    const waiting = this.#open.filter((sequence) => sequence.isReady && !postponed.has(sequence))
    // Sequences of different kinds take turns.
    const kind = (waiting.find((sequence) => sequence.kind !== this.#lastKind) ?? waiting[0])?.kind
    const most = Math.ceil(this.#open.length / this.#ways())
    const ready = waiting.filter((sequence) => sequence.kind === kind && this.#admit(sequence)).slice(0, most)
    this.#lastKind = kind ?? ''
    const rows = this.#rows.divide(ready.map(({ pending }) => pending))
    return ready.flatMap((sequence, i): Part[] => {
      const { cache, tokens, computed, pending } = sequence
      if (rows[i] === 0) return []
      return [{ sequence, cache: cache!, tokens: tokens.slice(computed, computed + rows[i]!), isLast: rows[i] === pending }]
    })
  }

  /** Gives the sequence memory for its tokens, with what others computed of its beginning; false while it should wait for more of either. */
  #admit(sequence: Sequence): boolean {
    if (sequence.cache !== null) return true
    const { trunk } = this.#model
    const { tokens, tally } = sequence
    const beginning = this.#beginningOf(sequence)
    if (beginning === 'awaited') return false
    const expected = Math.max(sequence.expectedTokens, tokens.length)
    for (;;) {
      let cache: KvCache | null = null
      try {
        cache = beginning === null ? trunk.createCache(expected) : beginning.cache.fork(beginning.length, expected)
        cache.reserve(tokens.length)
        sequence.cache = cache
        if (tally.passes === 0) tally.cachedTokens = cache.length
        return true
      } catch (error) {
        cache?.close()
        if (!isMeshError(error, 'KvFullError')) throw error
        if (this.#prefixes.forgetOldest(beginning?.cache) || this.#forgetIdle()) continue
        if (this.#open.some((other) => other.cache !== null)) return false
        // Nobody here gives anything back: other models hold the memory, or its own beginning does.
        sequence.cache = trunk.createCache()
        return true
      }
    }
  }

  /** The longest beginning that another sequence has computed; `awaited` when one that came earlier is about to compute more of it. */
  #beginningOf(sequence: Sequence): Beginning | null | 'awaited' {
    const { tokens, kind } = sequence
    // The logits after the last token are still to be computed.
    const usable = tokens.slice(0, -1)
    let longest: Beginning | null = this.#prefixes.find(this.#prefixKind(kind), usable, MIN_SHARED_TOKENS)
    let awaited = 0
    for (const other of this.#open) {
      if (other === sequence) break
      if (other.cache === null || other.kind !== kind) continue
      const common = commonLength(other.tokens, usable)
      const length = Math.min(common, other.computed)
      if (length >= MIN_SHARED_TOKENS && length > (longest?.length ?? 0)) longest = { cache: other.cache, length }
      if (other.isWanted && other.pending > 1) awaited = Math.max(awaited, common)
    }
    return awaited >= (longest?.length ?? 0) + MIN_SHARED_TOKENS ? 'awaited' : longest
  }

  /**
   * Frees key-value memory: what past queries left, then that of a sequence that waits for nothing, then that of the youngest, which begins
   * anew in a later pass. Never that of `first`; false when there is nothing to free.
   */
  #makeRoom(first: Sequence, postponed: Set<Sequence>): boolean {
    if (this.#prefixes.forgetOldest() || this.#forgetIdle()) return true
    const victim = this.#open.findLast((sequence) => sequence !== first && sequence.cache !== null && !sequence.busy)
    if (victim === undefined) return false
    victim.forget()
    postponed.add(victim)
    return true
  }

  /** Takes the memory of a sequence that waits for nothing: its reader is slow. */
  #forgetIdle(): boolean {
    const idle = this.#open.find((sequence) => sequence.cache !== null && !sequence.isWanted && !sequence.busy)
    idle?.forget()
    return idle !== undefined
  }
}

/** A scope that is cancelled once every sequence of a pass is: until then the others go on. */
class PassScope {
  readonly own: CancelScope
  readonly #parts: readonly Part[]
  readonly #member = { cancel: (reason: Error): void => this.#cancelled(reason) }

  constructor(parts: readonly Part[]) {
    this.#parts = parts
    // The most frequent case by far needs no scope of its own.
    this.own = parts.length === 1 ? parts[0]!.sequence.scope : new CancelScope()
    if (parts.length > 1) for (const { sequence } of parts) sequence.scope.add(this.#member)
  }

  end(): void {
    if (this.#parts.length > 1) for (const { sequence } of this.#parts) sequence.scope.delete(this.#member)
  }

  #cancelled(reason: Error): void {
    if (this.#parts.every(({ sequence }) => sequence.scope.isCancelled)) this.own.cancel(reason)
  }
}

function asBusy(error: Error): Error {
  if (!isMeshError(error, 'KvFullError')) return error
  return new BusyError(`${error.message}; or try again when the other queries have ended`, { cause: error })
}
