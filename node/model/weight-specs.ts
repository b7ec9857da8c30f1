import { isDense } from './model-config.ts'
import type { GroupedAttention, LatentAttention, ModelConfig } from './model-config.ts'

/**
 * How a weight is kept whatever the quantisation:
 * - `linear`: a projection [outputs, inputs], quantised as asked;
 * - `router`: a projection kept in f32, transposed to [inputs, outputs];
 * - `plain`: norms and biases, in f32;
 * - `table`: any shape, row-major, in f32 when all is f32 and else in f16.
 */
export type WeightKind = 'linear' | 'router' | 'plain' | 'table'

/** One weight of a blob, before it is known where it comes from and how it is stored. */
export interface WeightSpec {
  readonly name: string
  readonly kind: WeightKind
  readonly shape: readonly number[]
}

/** The weights of a blob in their order. */
export function embeddingWeights({ vocabSize, hiddenSize }: ModelConfig): WeightSpec[] {
  return [{ name: 'embed', kind: 'table', shape: [vocabSize, hiddenSize] }]
}

export function headWeights({ vocabSize, hiddenSize }: ModelConfig): WeightSpec[] {
  return [plain('final_norm', hiddenSize), linear('lm_head', vocabSize, hiddenSize)]
}

/** One layer's, without its routed experts. */
export function layerWeights(config: ModelConfig, layer: number): WeightSpec[] {
  const { hiddenSize, attention } = config
  return [
    plain('attn_norm', hiddenSize),
    ...(attention.kind === 'grouped' ? groupedWeights(attention, hiddenSize) : latentWeights(attention, config)),
    plain('ffn_norm', hiddenSize),
    ...(isDense(config, layer) ? swigluWeights('dense_', hiddenSize, config.dense!.size) : moeWeights(config)),
  ]
}

export function expertWeights({ hiddenSize, expertSize, expertBias }: ModelConfig): WeightSpec[] {
  if (!expertBias) return swigluWeights('', hiddenSize, expertSize)
  return [
    linear('gate', expertSize, hiddenSize),
    plain('gate_bias', expertSize),
    linear('up', expertSize, hiddenSize),
    plain('up_bias', expertSize),
    linear('down', hiddenSize, expertSize),
    plain('down_bias', hiddenSize),
  ]
}

function groupedWeights(attention: GroupedAttention, hiddenSize: number): WeightSpec[] {
  const { heads, kvHeads, headDim, qkNorm, bias, sinks } = attention
  const queries = heads * headDim
  const keys = kvHeads * headDim
  return [
    linear('q', queries, hiddenSize),
    linear('k', keys, hiddenSize),
    linear('v', keys, hiddenSize),
    linear('o', hiddenSize, queries),
    ...(bias === 'none' ? [] : [plain('q_bias', queries), plain('k_bias', keys), plain('v_bias', keys)]),
    ...(bias === 'qkvo' ? [plain('o_bias', hiddenSize)] : []),
    ...(qkNorm === 'head' ? [plain('q_norm', headDim), plain('k_norm', headDim)] : []),
    ...(qkNorm === 'full' ? [plain('q_norm', queries), plain('k_norm', keys)] : []),
    ...(sinks ? [plain('sinks', heads)] : []),
  ]
}

/** `k_up` takes a head's plain query to the latent space, `v_up` takes a head's sum of latents to its values. */
function latentWeights(attention: LatentAttention, { hiddenSize, rope }: ModelConfig): WeightSpec[] {
  const { heads, queryRank, latentRank, plainDim, valueDim } = attention
  const queries = heads * (plainDim + rope.dim)
  return [
    ...(queryRank === null
      ? [linear('q', queries, hiddenSize)]
      : [linear('q_down', queryRank, hiddenSize), plain('q_down_norm', queryRank), linear('q_up', queries, queryRank)]),
    linear('kv_down', latentRank + rope.dim, hiddenSize),
    plain('kv_down_norm', latentRank),
    { name: 'k_up', kind: 'table', shape: [heads, plainDim, latentRank] },
    { name: 'v_up', kind: 'table', shape: [heads, valueDim, latentRank] },
    linear('o', hiddenSize, heads * valueDim),
  ]
}

function moeWeights({ hiddenSize, experts, router, shared }: ModelConfig): WeightSpec[] {
  return [
    { name: 'router', kind: 'router', shape: [experts, hiddenSize] },
    ...(router.bias === 'none' ? [] : [plain('router_bias', experts)]),
    ...(shared === null ? [] : swigluWeights('shared_', hiddenSize, shared.size)),
    ...(shared?.gated === true ? [{ name: 'shared_scale', kind: 'router', shape: [1, hiddenSize] } as const] : []),
  ]
}

function swigluWeights(prefix: string, hiddenSize: number, size: number): WeightSpec[] {
  return [linear(`${prefix}gate`, size, hiddenSize), linear(`${prefix}up`, size, hiddenSize), linear(`${prefix}down`, hiddenSize, size)]
}

function linear(name: string, outputs: number, inputs: number): WeightSpec {
  return { name, kind: 'linear', shape: [outputs, inputs] }
}

function plain(name: string, size: number): WeightSpec {
  return { name, kind: 'plain', shape: [size] }
}
