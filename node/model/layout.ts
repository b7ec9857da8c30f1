import type { ModelConfig, Quant, TensorEntry, TensorType } from './manifest.ts'
import { TENSOR_ALIGNMENT } from './manifest.ts'

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

interface TensorSpec {
  readonly name: string
  readonly type: TensorType
  readonly shape: readonly number[]
}

/**
 * Weights per scale along an input dimension: the largest block, at most the asked one, that divides it.
 * Where none does, the smallest, with the last block padded by zeros.
 */
export function blockFor(asked: number, inputs: number): number {
  return BLOCKS.find((block) => block <= asked && inputs % block === 0) ?? BLOCKS.at(-1)!
}

export function embeddingLayout(config: ModelConfig, quant: Quant): Layout {
  const type = quant.kind === 'f32' ? 'f32' : 'f16'
  return place([{ name: 'embed', type, shape: [config.vocabSize, config.hiddenSize] }])
}

export function layerLayout(config: ModelConfig, quant: Quant): Layout {
  const { hiddenSize, headDim } = config
  const queries = config.heads * headDim
  const keys = config.kvHeads * headDim
  return place([
    norm('attn_norm', hiddenSize),
    ...linear('q', queries, hiddenSize, quant),
    ...linear('k', keys, hiddenSize, quant),
    ...linear('v', keys, hiddenSize, quant),
    ...linear('o', hiddenSize, queries, quant),
    ...qkNorms(config),
    norm('ffn_norm', hiddenSize),
    { name: 'router', type: 'f32', shape: [hiddenSize, config.experts] },
  ])
}

export function headLayout(config: ModelConfig, quant: Quant): Layout {
  return place([norm('final_norm', config.hiddenSize), ...linear('lm_head', config.vocabSize, config.hiddenSize, quant)])
}

/** Layout of one expert relative to its start; `bytes` is the stride from expert to expert. */
export function expertLayout(config: ModelConfig, quant: Quant): Layout {
  const { hiddenSize, expertSize } = config
  return place([
    ...linear('gate', expertSize, hiddenSize, quant),
    ...linear('up', expertSize, hiddenSize, quant),
    ...linear('down', hiddenSize, expertSize, quant),
  ])
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

function qkNorms(config: ModelConfig): TensorSpec[] {
  if (config.qkNorm === 'none') return []
  const perHead = config.qkNorm === 'head'
  return [
    norm('q_norm', perHead ? config.headDim : config.heads * config.headDim),
    norm('k_norm', perHead ? config.headDim : config.kvHeads * config.headDim),
  ]
}

function norm(name: string, size: number): TensorSpec {
  return { name, type: 'f32', shape: [size] }
}

function linear(name: string, outputs: number, inputs: number, quant: Quant): TensorSpec[] {
  if (quant.kind === 'f32' || quant.kind === 'f16') return [{ name, type: quant.kind, shape: [inputs, outputs] }]
  const block = blockFor(quant.block, inputs)
  const blocks = Math.ceil(inputs / block)
  return [
    { name: `${name}.codes`, type: 'u8', shape: [outputs, blocks, (block * (quant.kind === 'q4' ? 4 : 8)) / 8] },
    { name: `${name}.scales`, type: 'f32', shape: [outputs, blocks] },
  ]
}

function place(specs: readonly TensorSpec[]): Layout {
  let end = 0
  const tensors = specs.map((spec) => {
    const bytes = spec.shape.reduce((product, n) => product * n, TYPE_BYTES[spec.type])
    const tensor = { ...spec, offset: end, bytes }
    end = align(end + bytes)
    return tensor
  })
  return { tensors, bytes: end }
}

function align(bytes: number): number {
  return Math.ceil(bytes / TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT
}
