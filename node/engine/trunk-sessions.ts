import { isDense } from '../model/model-config.ts'
import type { ModelConfig } from '../model/model-config.ts'
import { EmbeddingTable } from './embedding-table.ts'
import type { ExpertSessions } from './expert-sessions.ts'
import { freeMemory } from '../../protocols/wire/free-memory.ts'
import { KvPool } from './kv-pool.ts'
import type { KvMemory } from './kv-pool.ts'
import { attentionShape } from './kv-shape.ts'
import type { AttentionShape } from './kv-shape.ts'
import { Operand, Operands } from './operands.ts'
import { passMemory } from './pass-memory.ts'
import { PassOperands } from './pass-operands.ts'
import { picksOf } from './picks.ts'
import { Rope } from './rope.ts'
import type { Pointer } from './ort-api.ts'
import { borrowSession, openSession } from './session.ts'
import type { Session } from './session.ts'
import { freePlan, AttentionSessions } from './attention-sessions.ts'
import type { AttentionPass } from './attention-sessions.ts'
import type { EmbeddingSource, GraphSource, KvLayout, LastRows, SegmentStart } from './worker-messages.ts'

/** Passes of up to this many rows leave their arrays to the next. */
const REUSED_ROWS = 16
/** Numbers of rows of which arrays are kept: queries that are answered together go in two passes by turns. */
const KEPT_SETS = 2

interface LayerSessions {
  readonly before: Session
  readonly after: Session
  readonly shared: Session | null
}

interface Layer extends LayerSessions {
  readonly shape: AttentionShape
  readonly kv: KvPool
}

/** Sessions of a layer, of which the last is 0 where there is no shared expert. */
const POINTERS_PER_LAYER = 3

interface RunningPass {
  readonly rows: number
  readonly operands: PassOperands
  readonly attention: AttentionPass
  /** What is left to do for the layer that was answered last. */
  rest: (() => void) | null
  /** Why it could not be done. */
  failure: Error | null
}

/** A trunk as one thread has it, which opened or borrowed its sessions: the passes that this thread takes through the layers. */
export class TrunkSessions {
  readonly #config: ModelConfig
  readonly #kv: KvLayout
  readonly #embedding: EmbeddingTable
  readonly #rope: Rope
  readonly #attention: AttentionSessions
  readonly #layers: Layer[] = []
  readonly #passes = new Map<number, RunningPass>()
  /** By rows, least recently used first. */
  readonly #reused = new Map<number, PassOperands>()
  #head: Session | null = null

  constructor(config: ModelConfig, embedding: EmbeddingSource, kv: KvLayout) {
    this.#config = config
    this.#kv = kv
    this.#embedding = new EmbeddingTable(embedding, config.scales.embedding)
    this.#rope = new Rope(config.rope)
    this.#attention = new AttentionSessions(kv)
  }

  get layers(): number {
    return this.#config.layers
  }

  openLayer(layer: number, graphs: { before: GraphSource; after: GraphSource; shared: GraphSource | null }, kv: KvMemory): void {
    const { before, after, shared } = graphs
    const sessions = { before: openSession(before), after: openSession(after), shared: shared === null ? null : openSession(shared) }
    this.#addLayer(layer, sessions, kv)
  }

  /** Where the sessions of the layers are, {@link POINTERS_PER_LAYER} each; null where other threads can't borrow them. */
  pointers(): BigUint64Array | null {
    const pointers = this.#layers.flatMap(({ before, after, shared }) => [
      before.pointer,
      after.pointer,
      shared === null ? 0n : shared.pointer,
    ])
    return pointers.some((pointer) => pointer === null) ? null : BigUint64Array.from(pointers as Pointer[])
  }

  /** Takes up the layers that another thread of this process has opened; it closes them after this. */
  borrowLayers(pointers: BigUint64Array, kv: readonly KvMemory[]): void {
    for (const [layer, memory] of kv.entries()) {
      const [before, after, shared] = pointers.subarray(layer * POINTERS_PER_LAYER)
      const sessions = {
        before: borrowSession(before!),
        after: borrowSession(after!),
        shared: shared === 0n ? null : borrowSession(shared!),
      }
      this.#addLayer(layer, sessions, memory)
    }
  }

  #addLayer(layer: number, sessions: LayerSessions, kv: KvMemory): void {
    const shape = attentionShape(this.#config, layer)
    this.#layers[layer] = { ...sessions, shape, kv: new KvPool(shape, this.#kv.type, kv) }
  }

  openHead(source: GraphSource): void {
    this.#head = openSession(source)
  }

  begin(pass: number, segments: readonly SegmentStart[], memory: SharedArrayBuffer): void {
    const half = this.#config.rope.dim / 2
    const tokens = segments.flatMap((segment) => segment.tokens)
    const rows = tokens.length
    const operands = this.#operands(memory, rows)
    operands.memory.moe.fill(0)
    operands.memory.expertUs.fill(0)
    this.#embedding.read(tokens, operands.h)
    let firstRow = 0
    let highest = 0
    const parts = segments.map(({ past, tokens: own, table }) => {
      const { cos, sin } = this.#rope.rotations(past, own.length)
      operands.cos.set(cos, firstRow * half)
      operands.sin.set(sin, firstRow * half)
      for (const block of table) highest = Math.max(highest, block)
      const part = { firstRow, rows: own.length, past, table }
      firstRow += own.length
      return part
    })
    for (const { kv } of this.#layers) kv.grow(highest + 1)
    const { queries, attention, sinks } = operands
    this.#passes.set(pass, {
      rows,
      operands,
      attention: { parts, queries, attention, sinks, plan: new Map() },
      rest: null,
      failure: null,
    })
  }

  /**
   * All rows of the pass go through the weights together; each sequence attends to its own blocks.
   * `finishLayer` is called once the answer is on its way.
   */
  attend(number: number, layer: number): void {
    this.finishLayer(number)
    const pass = this.#pass(number)
    const { operands, attention } = pass
    const { before, after, shared, shape, kv } = this.#layers[layer]!
    before.run(operands.before.feeds, operands.before.fetches)
    for (const { table, past, rows, firstRow } of attention.parts) kv.write(table, past, rows, operands.keysAndValues, firstRow)
    this.#attention.run(shape, kv, attention)
    const { feeds, fetches } = isDense(this.#config, layer) ? operands.afterDense : operands.after
    after.run(feeds, fetches)
    if (shared !== null) pass.rest = () => operands.addShared((ends) => shared.run(ends.feeds, ends.fetches))
    // Consumed into the residual stream: the caller may add the next layer's experts from zero.
    operands.memory.moe.fill(0)
  }

  /** Adds the experts that the router of the layer attended to last chose, and says so in the pass's memory; false when some are not here. */
  async addExperts(number: number, layer: number, experts: ExpertSessions): Promise<boolean> {
    if (isDense(this.#config, layer)) return true
    const {
      operands: { memory },
      rows,
    } = this.#pass(number)
    if (!experts.hasAll(layer, memory.experts)) return false
    this.finishLayer(number)
    const startedAt = performance.now()
    await experts.add({ layer, rows, x: memory.x, ...picksOf(memory, rows, this.#config.experts) }, memory.moe)
    memory.chosen.set(memory.experts, layer * memory.experts.length)
    memory.expertUs[layer] = Math.max(1, (performance.now() - startedAt) * 1000)
    return true
  }

  /** Whether {@link finishLayer} has something to do. */
  isUnfinished(number: number): boolean {
    const pass = this.#passes.get(number)
    return pass !== undefined && pass.rest !== null
  }

  /** Computes the shared expert of the layer that was attended to last. What goes wrong is told by the next call on the pass. */
  finishLayer(number: number): void {
    const pass = this.#passes.get(number)
    if (pass === undefined || pass.rest === null) return
    const { rest } = pass
    pass.rest = null
    try {
      rest()
    } catch (error) {
      pass.failure = error as Error
    }
  }

  /** [rows, vocab] */
  logits(number: number, rows: readonly number[]): Float32Array {
    return this.head(this.lastRows(number, rows))
  }

  /** Copies of the rows after the last layer, for the {@link head} of the thread that has it. */
  lastRows(number: number, rows: readonly number[]): LastRows {
    this.finishLayer(number)
    const { operands } = this.#pass(number)
    const { hiddenSize } = this.#config
    const pick = (from: Float32Array): Float32Array => {
      const picked = new Float32Array(rows.length * hiddenSize)
      for (const [i, row] of rows.entries()) picked.set(from.subarray(row * hiddenSize, (row + 1) * hiddenSize), i * hiddenSize)
      return picked
    }
    return { rows: rows.length, h: pick(operands.h), moe: pick(operands.memory.moe) }
  }

  /** Logits of rows after the last layer, which are freed: [rows, vocab]. */
  head(last: LastRows): Float32Array {
    const { hiddenSize, vocabSize } = this.#config
    const numbers = new Float32Array(last.rows * vocabSize)
    const h = new Operand(last.h, [1, last.rows, hiddenSize])
    const moe = new Operand(last.moe, [1, last.rows, hiddenSize])
    const logits = new Operand(numbers, [1, last.rows, vocabSize])
    try {
      this.#head!.run(new Operands({ h, moe }), new Operands({ logits }))
    } finally {
      for (const operand of [h, moe, logits]) operand.free()
      for (const operand of [h, moe]) freeMemory(operand.numbers)
    }
    return numbers
  }

  endPass(number: number): void {
    const pass = this.#passes.get(number)
    if (pass === undefined) return
    this.#passes.delete(number)
    freePlan(pass.attention.plan)
    if (pass.rows > REUSED_ROWS) {
      pass.operands.free()
      return
    }
    this.#reused.get(pass.rows)?.free()
    this.#reused.delete(pass.rows)
    this.#reused.set(pass.rows, pass.operands)
    for (const [rows, operands] of this.#reused) {
      if (this.#reused.size <= KEPT_SETS) break
      this.#reused.delete(rows)
      operands.free()
    }
  }

  close(): void {
    for (const number of this.#passes.keys()) this.endPass(number)
    for (const operands of this.#reused.values()) operands.free()
    this.#reused.clear()
    this.#embedding.close()
    for (const layer of this.#layers.splice(0)) {
      layer?.before.release()
      layer?.after.release()
      layer?.shared?.release()
    }
    this.#attention.close()
    this.#head?.release()
    this.#head = null
  }

  /** Those that the last pass of so many rows left, if it was in the same memory. */
  #operands(memory: SharedArrayBuffer, rows: number): PassOperands {
    const left = this.#reused.get(rows)
    if (left?.memory.moe.buffer !== memory) return new PassOperands(this.#config, passMemory(memory, this.#config, rows), rows)
    this.#reused.delete(rows)
    return left
  }

  #pass(pass: number): RunningPass {
    const running = this.#passes.get(pass)
    if (running === undefined) throw new Error('the pass has not begun or has ended')
    if (running.failure !== null) throw running.failure
    return running
  }
}
