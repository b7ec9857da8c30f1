import { Tensor } from 'onnxruntime-node'
import { isDense } from '../model/model-config.ts'
import type { ModelConfig } from '../model/model-config.ts'
import { EmbeddingTable } from './embedding-table.ts'
import { freeMemory } from './free-memory.ts'
import { KvPool } from './kv-pool.ts'
import { attentionShape } from './kv-shape.ts'
import type { AttentionShape } from './kv-shape.ts'
import { passMemory, type PassMemory } from './pass-memory.ts'
import { picksOf } from './picks.ts'
import { Rope } from './rope.ts'
import { Session } from './session.ts'
import { WorkerAttention } from './worker-attention.ts'
import type { AttentionPass } from './worker-attention.ts'
import type { WorkerExperts } from './worker-experts.ts'
import type { EmbeddingSource, GraphSource, KvLayout, PassStart } from './worker-messages.ts'

interface Layer {
  readonly before: Session
  readonly after: Session
  readonly shared: Session | null
  readonly shape: AttentionShape
  readonly kv: KvPool
}

interface RunningPass {
  readonly memory: PassMemory
  readonly rows: number
  readonly attention: AttentionPass
  /** Inputs that stay the same in all layers. */
  readonly feeds: Readonly<Record<'moe' | 'cos' | 'sin', Tensor>>
  h: Tensor
  /** What is left to do for the layer that was answered last. */
  rest: (() => void) | null
  /** Why it could not be done. */
  failure: Error | null
}

/** A trunk inside its worker: sessions, key-value memory and the passes under way. */
export class WorkerTrunk {
  readonly #config: ModelConfig
  readonly #kv: KvLayout
  readonly #embedding: EmbeddingTable
  readonly #rope: Rope
  readonly #attention: WorkerAttention
  readonly #layers: Layer[] = []
  readonly #passes = new Map<number, RunningPass>()
  #head: Session | null = null

  constructor(config: ModelConfig, embedding: EmbeddingSource, kv: KvLayout) {
    this.#config = config
    this.#kv = kv
    this.#embedding = new EmbeddingTable(embedding, config.scales.embedding)
    this.#rope = new Rope(config.rope)
    this.#attention = new WorkerAttention(kv)
  }

  get layers(): number {
    return this.#config.layers
  }

  openLayer(layer: number, graphs: { before: GraphSource; after: GraphSource; shared: GraphSource | null }): void {
    const shape = attentionShape(this.#config, layer)
    this.#layers[layer] = {
      before: new Session(graphs.before),
      after: new Session(graphs.after),
      shared: graphs.shared === null ? null : new Session(graphs.shared),
      shape,
      kv: new KvPool(shape, this.#kv.type, this.#kv.maxBlocks),
    }
  }

  openHead(source: GraphSource): void {
    this.#head = new Session(source)
  }

  begin(pass: number, start: PassStart, memory: SharedArrayBuffer): void {
    const { hiddenSize, rope } = this.#config
    const half = rope.dim / 2
    const tokens = start.segments.flatMap((segment) => segment.tokens)
    const rows = tokens.length
    const views = passMemory(memory, this.#config, rows)
    views.moe.fill(0)
    views.expertUs.fill(0)
    const cos = new Float32Array(rows * half)
    const sin = new Float32Array(rows * half)
    let firstRow = 0
    let highest = 0
    const parts = start.segments.map(({ past, tokens: own, table }) => {
      const rotations = this.#rope.rotations(past, own.length)
      cos.set(rotations.cos, firstRow * half)
      sin.set(rotations.sin, firstRow * half)
      for (const block of table) highest = Math.max(highest, block)
      const part = { firstRow, rows: own.length, past, table }
      firstRow += own.length
      return part
    })
    for (const { kv } of this.#layers) kv.grow(highest + 1)
    this.#passes.set(pass, {
      memory: views,
      rows,
      attention: { parts, plan: new Map() },
      h: new Tensor('float32', this.#embedding.rows(tokens), [1, rows, hiddenSize]),
      feeds: {
        moe: new Tensor('float32', views.moe, [1, rows, hiddenSize]),
        cos: new Tensor('float32', cos, [rows, half]),
        sin: new Tensor('float32', sin, [rows, half]),
      },
      rest: null,
      failure: null,
    })
  }

  /**
   * All rows of the pass go through the weights together; each sequence attends to its own blocks.
   * `finishLayer` is called once the answer is on its way.
   */
  attend(number: number, layer: number): void {
    const pass = this.#pass(number)
    const { before, after, shared, shape, kv } = this.#layers[layer]!
    const out = before.run({ ...pass.feeds, h: pass.h })
    const vectors = [out['new_k'], out['new_v']].flatMap((tensor) => (tensor === undefined ? [] : [tensor.data as Float32Array]))
    const inputs = { queries: out['queries']!.data as Float32Array, sinks: out['sink_scores'] ?? null }
    const attended = new Float32Array(pass.rows * shape.heads * shape.valueWidth)
    for (const { table, past, rows, firstRow } of pass.attention.parts) kv.write(table, past, rows, vectors, firstRow)
    this.#attention.run(shape, kv, pass.attention, inputs, attended)
    const attention = new Tensor('float32', attended, [1, pass.rows, shape.heads * shape.valueWidth])
    const { h2, x, weights, experts } = after.run({ h1: out['h1']!, attention })
    free(pass.h, ...Object.values(out), attention)
    pass.h = h2!
    if (!isDense(this.#config, layer)) {
      pass.memory.x.set(x!.data as Float32Array)
      pass.memory.weights.set(weights!.data as Float32Array)
      pass.memory.experts.set(experts!.data as Int32Array)
    }
    if (shared !== null) {
      pass.rest = () => {
        const { h3 } = shared.run({ x: x!, h2: h2! })
        free(x, h2)
        pass.h = h3!
      }
    } else free(x)
    free(weights, experts)
    // Consumed into the residual stream: the caller may add the next layer's experts from zero.
    pass.memory.moe.fill(0)
  }

  /** Adds the experts that the router of the layer attended to last chose, and says so in the pass's memory; false when some are not here. */
  async addExperts(number: number, layer: number, experts: WorkerExperts): Promise<boolean> {
    if (isDense(this.#config, layer)) return true
    const { memory, rows } = this.#pass(number)
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
    const pass = this.#pass(number)
    const { hiddenSize } = this.#config
    const pick = (from: Float32Array): Tensor => {
      const picked = new Float32Array(rows.length * hiddenSize)
      for (const [i, row] of rows.entries()) picked.set(from.subarray(row * hiddenSize, (row + 1) * hiddenSize), i * hiddenSize)
      return new Tensor('float32', picked, [1, rows.length, hiddenSize])
    }
    const feeds = { h: pick(pass.h.data as Float32Array), moe: pick(pass.memory.moe) }
    const { logits } = this.#head!.run(feeds)
    free(feeds.h, feeds.moe)
    return logits!.data as Float32Array
  }

  endPass(number: number): void {
    const pass = this.#passes.get(number)
    this.#passes.delete(number)
    free(pass?.h)
  }

  /** Copies what all layers keep in a block. */
  copyBlock(from: number, to: number): void {
    for (const { kv } of this.#layers) {
      kv.grow(Math.max(from, to) + 1)
      kv.copy(from, to)
    }
  }

  close(): void {
    this.#passes.clear()
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

  #pass(pass: number): RunningPass {
    const running = this.#passes.get(pass)
    if (running === undefined) throw new Error('the pass has not begun or has ended')
    if (running.failure !== null) throw running.failure
    return running
  }
}

function free(...tensors: readonly (Tensor | undefined)[]): void {
  for (const tensor of tensors) if (tensor !== undefined) freeMemory(tensor.data as Float32Array)
}
