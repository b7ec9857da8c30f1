import { Tensor } from 'onnxruntime-node'
import { cacheShape } from '../model/model-config.ts'
import type { CacheShape, ModelConfig } from '../model/model-config.ts'

/** Tokens a new cache has room for. */
const FIRST_CAPACITY = 64

interface LayerMemory {
  /** [1, heads, capacity, width] */
  readonly k: Tensor
  /** The same, or null where values are the keys. */
  readonly v: Tensor | null
}

/** Keys and values of one sequence in all layers; onnxruntime reads the arrays in place. */
export class KvMemory {
  readonly #config: ModelConfig
  readonly #shape: CacheShape
  #capacity = 0
  #layers: LayerMemory[] = []

  constructor(config: ModelConfig) {
    this.#config = config
    this.#shape = cacheShape(config)
  }

  /** Makes room for `tokens`, keeping the first `held`; doubles, so that a long answer copies each entry a few times at most. */
  reserve(tokens: number, held: number): void {
    if (tokens <= this.#capacity) return
    let capacity = Math.max(this.#capacity, FIRST_CAPACITY)
    while (capacity < tokens) capacity *= 2
    capacity = Math.min(capacity, this.#config.maxContext)
    const { heads, width, separateValues } = this.#shape
    const shape = [1, heads, capacity, width]
    const grow = (from: Tensor | null | undefined): Tensor => {
      const to = new Float32Array(heads * capacity * width)
      for (let head = 0; from && head < heads; head++) {
        const start = head * this.#capacity * width
        to.set((from.data as Float32Array).subarray(start, start + held * width), head * capacity * width)
      }
      return new Tensor('float32', to, shape)
    }
    const old = this.#layers
    this.#layers = Array.from({ length: this.#config.layers }, (_, layer) => ({
      k: grow(old[layer]?.k),
      v: separateValues ? grow(old[layer]?.v) : null,
    }))
    this.#capacity = capacity
  }

  /** What a layer's graph is fed of the tokens held. */
  feeds(layer: number): Record<string, Tensor> {
    const { k, v } = this.#layers[layer]!
    return v === null ? { past_k: k } : { past_k: k, past_v: v }
  }

  /** Stores keys and values of tokens `first…`, as a layer's graph gives them: [tokens, heads * width]. */
  write(layer: number, first: number, outputs: Readonly<Record<string, Tensor>>): void {
    const { k, v } = this.#layers[layer]!
    this.#scatter(outputs['new_k']!, first, k)
    if (v !== null) this.#scatter(outputs['new_v']!, first, v)
  }

  #scatter(from: Tensor, first: number, to: Tensor): void {
    const { heads, width } = this.#shape
    const source = from.data as Float32Array
    const target = to.data as Float32Array
    const tokens = source.length / (heads * width)
    for (let token = 0; token < tokens; token++) {
      for (let head = 0; head < heads; head++) {
        const at = (token * heads + head) * width
        target.set(source.subarray(at, at + width), (head * this.#capacity + first + token) * width)
      }
    }
  }
}
