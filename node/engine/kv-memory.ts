import { Tensor } from 'onnxruntime-node'
import type { ModelConfig } from '../model/manifest.ts'

/** Tokens a new cache has room for. */
const FIRST_CAPACITY = 64

interface LayerMemory {
  /** [kvHeads, capacity, headDim] */
  readonly k: Float32Array
  readonly v: Float32Array
  readonly kTensor: Tensor
  readonly vTensor: Tensor
}

/** Keys and values of one sequence in all layers; onnxruntime reads the arrays in place. */
export class KvMemory {
  readonly #config: ModelConfig
  #capacity = 0
  #layers: LayerMemory[] = []

  constructor(config: ModelConfig) {
    this.#config = config
  }

  /** Makes room for `tokens`, keeping the first `held`; doubles, so that a long answer copies each entry a few times at most. */
  reserve(tokens: number, held: number): void {
    if (tokens <= this.#capacity) return
    let capacity = Math.max(this.#capacity, FIRST_CAPACITY)
    while (capacity < tokens) capacity *= 2
    capacity = Math.min(capacity, this.#config.maxContext)
    const { kvHeads, headDim, layers } = this.#config
    const old = this.#layers
    const grow = (from: Float32Array | undefined): Float32Array => {
      const to = new Float32Array(kvHeads * capacity * headDim)
      if (from === undefined) return to
      for (let head = 0; head < kvHeads; head++) {
        const start = head * this.#capacity * headDim
        to.set(from.subarray(start, start + held * headDim), head * capacity * headDim)
      }
      return to
    }
    const shape = [1, kvHeads, capacity, headDim]
    this.#layers = Array.from({ length: layers }, (_, layer) => {
      const k = grow(old[layer]?.k)
      const v = grow(old[layer]?.v)
      return { k, v, kTensor: new Tensor('float32', k, shape), vTensor: new Tensor('float32', v, shape) }
    })
    this.#capacity = capacity
  }

  /** Memory of a layer as [1, kvHeads, capacity, headDim]. */
  tensors(layer: number): { readonly k: Tensor; readonly v: Tensor } {
    const memory = this.#layers[layer]!
    return { k: memory.kTensor, v: memory.vTensor }
  }

  /** Stores keys and values of tokens `first…`; both are [tokens, kvHeads * headDim]. */
  write(layer: number, first: number, keys: Float32Array, values: Float32Array): void {
    const { kvHeads, headDim } = this.#config
    const { k, v } = this.#layers[layer]!
    const tokens = keys.length / (kvHeads * headDim)
    for (let token = 0; token < tokens; token++) {
      for (let head = 0; head < kvHeads; head++) {
        const from = (token * kvHeads + head) * headDim
        const to = (head * this.#capacity + first + token) * headDim
        k.set(keys.subarray(from, from + headDim), to)
        v.set(values.subarray(from, from + headDim), to)
      }
    }
  }
}
