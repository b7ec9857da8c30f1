import type { Quant, TensorEntry } from './manifest.ts'
import { TENSOR_ALIGNMENT, trunkQuant } from './manifest.ts'
import type { ModelConfig } from './model-config.ts'
import { embeddingWeights, expertWeights, headWeights, layerWeights } from './weight-specs.ts'
import type { WeightSpec } from './weight-specs.ts'

/** A shard blob holds as many experts as fit in about this much. */
const SHARD_BYTES = 32 * 2 ** 20
/** So that a small swarm can spread a layer. */
const MIN_SHARDS_PER_LAYER = 4

export const BLOCKS: readonly number[] = [128, 64, 32, 16]
const TYPE_BYTES = Object.freeze({ f32: 4, f16: 2, u8: 1 })

/** Where the tensors of a blob (or of one expert within its shard) lie. */
export interface Layout {
  readonly tensors: readonly TensorEntry[]
  /** Multiple of {@link TENSOR_ALIGNMENT}. */
  readonly bytes: number
}

type StoredTensor = Pick<TensorEntry, 'name' | 'type' | 'shape'>

/**
 * Weights per scale along an input dimension: the largest block, at most the asked one, that divides it.
 * Where none does, the smallest, with the last block padded by zeros.
 */
export function blockFor(asked: number, inputs: number): number {
  return BLOCKS.find((block) => block <= asked && inputs % block === 0) ?? BLOCKS.at(-1)!
}

export function embeddingLayout(config: ModelConfig, quant: Quant): Layout {
  return layoutOf(embeddingWeights(config), trunkQuant(quant))
}

export function layerLayout(config: ModelConfig, quant: Quant, layer: number): Layout {
  return layoutOf(layerWeights(config, layer), trunkQuant(quant))
}

export function headLayout(config: ModelConfig, quant: Quant): Layout {
  return layoutOf(headWeights(config), trunkQuant(quant))
}

/** Layout of one expert relative to its start; `bytes` is the stride from expert to expert. */
export function expertLayout(config: ModelConfig, quant: Quant): Layout {
  return layoutOf(expertWeights(config), quant)
}

/** Runs of consecutive experts, one per shard of a layer, of nearly equal length. */
export function shardRanges(experts: number, stride: number): readonly { readonly first: number; readonly last: number }[] {
  const perShard = Math.max(1, Math.min(Math.floor(SHARD_BYTES / stride), Math.floor(experts / MIN_SHARDS_PER_LAYER)))
  const count = Math.ceil(experts / perShard)
  return Array.from({ length: count }, (_, i) => ({
    first: Math.floor((i * experts) / count),
    last: Math.floor(((i + 1) * experts) / count) - 1,
  }))
}

/** The tensors that one weight is stored as. */
function storedTensors({ name, kind, shape }: WeightSpec, quant: Quant): StoredTensor[] {
  if (kind === 'plain') return [{ name, type: 'f32', shape }]
  const half = quant.kind === 'f32' ? 'f32' : 'f16'
  if (kind === 'table') return [{ name, type: half, shape }]
  const [outputs, inputs] = shape as readonly [number, number]
  if (kind === 'router') return [{ name, type: 'f32', shape: [inputs, outputs] }]
  if (quant.kind === 'f32' || quant.kind === 'f16') return [{ name, type: quant.kind, shape: [inputs, outputs] }]
  const block = blockFor(quant.block, inputs)
  const blocks = Math.ceil(inputs / block)
  return [
    { name: `${name}.codes`, type: 'u8', shape: [outputs, blocks, (block * (quant.kind === 'q4' ? 4 : 8)) / 8] },
    { name: `${name}.scales`, type: 'f32', shape: [outputs, blocks] },
  ]
}

function layoutOf(weights: readonly WeightSpec[], quant: Quant): Layout {
  let end = 0
  const tensors = weights.flatMap((weight) =>
    storedTensors(weight, quant).map((stored) => {
      const bytes = stored.shape.reduce((product, n) => product * n, TYPE_BYTES[stored.type])
      const tensor = { ...stored, offset: end, bytes }
      end = align(end + bytes)
      return tensor
    }),
  )
  return { tensors, bytes: end }
}

function align(bytes: number): number {
  return Math.ceil(bytes / TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT
}
