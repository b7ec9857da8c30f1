import { Tensor, type InferenceSession } from 'onnxruntime-node'
import { isDense } from '../model/model-config.ts'
import type { ModelConfig } from '../model/model-config.ts'
import { EmbeddingTable } from './embedding-table.ts'
import { KvMemory } from './kv-memory.ts'
import { passMemory, type PassMemory } from './pass-memory.ts'
import { Rope } from './rope.ts'
import { createSession } from './session.ts'
import type { EmbeddingSource, GraphSource, PassStart, SegmentStart } from './worker-messages.ts'

/** One sequence while it goes through the layers. */
interface RunningSegment {
  readonly firstRow: number
  readonly rows: number
  readonly past: number
  readonly kv: KvMemory
  /** Inputs that stay the same in all layers. */
  readonly feeds: Readonly<Record<'moe' | 'cos' | 'sin' | 'last' | 'total', Tensor>>
  h: Tensor
}

interface RunningPass {
  readonly memory: PassMemory
  readonly segments: readonly RunningSegment[]
}

/** A trunk inside its worker: sessions, caches and the passes under way. */
export class WorkerTrunk {
  readonly #config: ModelConfig
  readonly #embedding: EmbeddingTable
  readonly #rope: Rope
  readonly #layers: InferenceSession[] = []
  readonly #caches = new Map<number, KvMemory>()
  readonly #passes = new Map<number, RunningPass>()
  #head: InferenceSession | null = null

  constructor(config: ModelConfig, embedding: EmbeddingSource) {
    this.#config = config
    this.#embedding = new EmbeddingTable(embedding, config.scales.embedding)
    this.#rope = new Rope(config.rope)
  }

  async openLayer(layer: number, source: GraphSource): Promise<void> {
    this.#layers[layer] = await createSession(source)
  }

  async openHead(source: GraphSource): Promise<void> {
    this.#head = await createSession(source)
  }

  begin(pass: number, start: PassStart, memory: SharedArrayBuffer): void {
    const rows = start.segments.reduce((sum, segment) => sum + segment.tokens.length, 0)
    const views = passMemory(memory, this.#config, rows)
    let firstRow = 0
    const segments = start.segments.map((segment) => {
      const running = this.#beginSegment(segment, views, firstRow)
      firstRow += segment.tokens.length
      return running
    })
    this.#passes.set(pass, { memory: views, segments })
  }

  async attend(pass: number, layer: number): Promise<void> {
    const running = this.#pass(pass)
    for (const segment of running.segments) await this.#attendSegment(running.memory, segment, layer)
  }

  /** [rows, vocab] */
  async logits(pass: number, rows: readonly number[]): Promise<Float32Array> {
    const { memory, segments } = this.#pass(pass)
    const { hiddenSize } = this.#config
    const h = new Float32Array(rows.length * hiddenSize)
    const moe = new Float32Array(rows.length * hiddenSize)
    for (const [i, row] of rows.entries()) {
      const segment = segments.find((s) => row >= s.firstRow && row < s.firstRow + s.rows)
      if (segment === undefined) throw new Error(`row ${row} is not part of the pass`)
      const at = (row - segment.firstRow) * hiddenSize
      h.set((segment.h.data as Float32Array).subarray(at, at + hiddenSize), i * hiddenSize)
      moe.set(memory.moe.subarray(row * hiddenSize, (row + 1) * hiddenSize), i * hiddenSize)
    }
    const shape = [1, rows.length, hiddenSize]
    const { logits } = await this.#head!.run({ h: new Tensor('float32', h, shape), moe: new Tensor('float32', moe, shape) })
    return logits!.data as Float32Array
  }

  endPass(pass: number): void {
    this.#passes.delete(pass)
  }

  closeCache(cache: number): void {
    this.#caches.delete(cache)
  }

  async close(): Promise<void> {
    this.#passes.clear()
    this.#caches.clear()
    this.#embedding.close()
    for (const session of this.#layers.splice(0)) await session?.release()
    await this.#head?.release()
    this.#head = null
  }

  #pass(pass: number): RunningPass {
    const running = this.#passes.get(pass)
    if (running === undefined) throw new Error('the pass has not begun or has ended')
    return running
  }

  #beginSegment(segment: SegmentStart, memory: PassMemory, firstRow: number): RunningSegment {
    const { hiddenSize, rope } = this.#config
    const { past, tokens } = segment
    const rows = tokens.length
    let kv = this.#caches.get(segment.cache)
    if (kv === undefined) {
      kv = new KvMemory(this.#config)
      this.#caches.set(segment.cache, kv)
    }
    kv.reserve(past + rows, past)
    const moe = memory.moe.subarray(firstRow * hiddenSize, (firstRow + rows) * hiddenSize)
    moe.fill(0)
    const { cos, sin } = this.#rope.rotations(past, rows)
    return {
      firstRow,
      rows,
      past,
      kv,
      h: new Tensor('float32', this.#embedding.rows(tokens), [1, rows, hiddenSize]),
      feeds: {
        moe: new Tensor('float32', moe, [1, rows, hiddenSize]),
        cos: new Tensor('float32', cos, [rows, rope.dim / 2]),
        sin: new Tensor('float32', sin, [rows, rope.dim / 2]),
        last: new Tensor('int32', Int32Array.of(past + rows - 1), [1]),
        total: new Tensor('int32', Int32Array.of(past + rows), []),
      },
    }
  }

  async #attendSegment(memory: PassMemory, segment: RunningSegment, layer: number): Promise<void> {
    const { hiddenSize, expertsPerToken } = this.#config
    const out = await this.#layers[layer]!.run({ ...segment.feeds, ...segment.kv.feeds(layer), h: segment.h })
    segment.kv.write(layer, segment.past, out)
    segment.h = out['h2']!
    if (!isDense(this.#config, layer)) {
      memory.x.set(out['x']!.data as Float32Array, segment.firstRow * hiddenSize)
      memory.weights.set(out['weights']!.data as Float32Array, segment.firstRow * expertsPerToken)
      memory.experts.set(out['experts']!.data as Int32Array, segment.firstRow * expertsPerToken)
    }
    // Consumed into the residual stream: the caller may add the next layer's experts from zero.
    ;(segment.feeds.moe.data as Float32Array).fill(0)
  }
}
