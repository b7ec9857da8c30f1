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
  /** What its shape follows from. */
  readonly sizes: readonly SizeName[]
}

/** Sizes of a model, by their names in `ModelConfig`. */
export type SizeName =
  | 'hiddenSize'
  | 'vocabSize'
  | 'heads'
  | 'kvHeads'
  | 'headDim'
  | 'queryRank'
  | 'latentRank'
  | 'plainDim'
  | 'ropeDim'
  | 'valueDim'
  | 'experts'
  | 'expertSize'
  | 'denseSize'
  | 'sharedSize'

/** The weights of a blob in their order. */
export function embeddingWeights({ vocabSize, hiddenSize }: ModelConfig): WeightSpec[] {
  return [{ name: 'embed', kind: 'table', shape: [vocabSize, hiddenSize], sizes: ['vocabSize', 'hiddenSize'] }]
}

export function headWeights({ vocabSize, hiddenSize }: ModelConfig): WeightSpec[] {
  return [plain('final_norm', hiddenSize, 'hiddenSize'), linear('lm_head', vocabSize, hiddenSize, 'vocabSize', 'hiddenSize')]
}

/** One layer's, without its routed experts. */
export function layerWeights(config: ModelConfig, layer: number): WeightSpec[] {
  const { hiddenSize, attention } = config
  return [
    plain('attn_norm', hiddenSize, 'hiddenSize'),
    ...(attention.kind === 'grouped' ? groupedWeights(attention, hiddenSize) : latentWeights(attention, config)),
    plain('ffn_norm', hiddenSize, 'hiddenSize'),
    ...(isDense(config, layer) ? swigluWeights('dense_', hiddenSize, config.dense!.size, 'denseSize') : moeWeights(config)),
  ]
}

export function expertWeights({ hiddenSize, expertSize, expertBias }: ModelConfig): WeightSpec[] {
  const [gate, up, down] = swigluWeights('', hiddenSize, expertSize, 'expertSize')
  if (!expertBias) return [gate, up, down]
  return [
    gate,
    plain('gate_bias', expertSize, 'experts', 'expertSize'),
    up,
    plain('up_bias', expertSize, 'experts', 'expertSize'),
    down,
    plain('down_bias', hiddenSize, 'experts', 'hiddenSize'),
  ]
}

function groupedWeights(attention: GroupedAttention, hiddenSize: number): WeightSpec[] {
  const { heads, kvHeads, headDim, qkNorm, bias, sinks } = attention
  const queries = heads * headDim
  const keys = kvHeads * headDim
  const ofQueries = ['heads', 'headDim'] as const
  const ofKeys = ['kvHeads', 'headDim'] as const
  return [
    linear('q', queries, hiddenSize, ...ofQueries, 'hiddenSize'),
    linear('k', keys, hiddenSize, ...ofKeys, 'hiddenSize'),
    linear('v', keys, hiddenSize, ...ofKeys, 'hiddenSize'),
    linear('o', hiddenSize, queries, 'hiddenSize', ...ofQueries),
    ...(bias === 'none'
      ? []
      : [plain('q_bias', queries, ...ofQueries), plain('k_bias', keys, ...ofKeys), plain('v_bias', keys, ...ofKeys)]),
    ...(bias === 'qkvo' ? [plain('o_bias', hiddenSize, 'hiddenSize')] : []),
    ...(qkNorm === 'head' ? [plain('q_norm', headDim, 'headDim'), plain('k_norm', headDim, 'headDim')] : []),
    ...(qkNorm === 'full' ? [plain('q_norm', queries, ...ofQueries), plain('k_norm', keys, ...ofKeys)] : []),
    ...(sinks ? [plain('sinks', heads, 'heads')] : []),
  ]
}

/** `k_up` takes a head's plain query to the latent space, `v_up` takes a head's sum of latents to its values. */
function latentWeights(attention: LatentAttention, { hiddenSize, rope }: ModelConfig): WeightSpec[] {
  const { heads, queryRank, latentRank, plainDim, valueDim } = attention
  const queries = heads * (plainDim + rope.dim)
  const ofQueries = ['heads', 'plainDim', 'ropeDim'] as const
  // Both come from one tensor.
  const ofLatents = ['heads', 'plainDim', 'valueDim', 'latentRank'] as const
  return [
    ...(queryRank === null
      ? [linear('q', queries, hiddenSize, ...ofQueries, 'hiddenSize')]
      : [
          linear('q_down', queryRank, hiddenSize, 'queryRank', 'hiddenSize'),
          plain('q_down_norm', queryRank, 'queryRank'),
          linear('q_up', queries, queryRank, ...ofQueries, 'queryRank'),
        ]),
    linear('kv_down', latentRank + rope.dim, hiddenSize, 'latentRank', 'ropeDim', 'hiddenSize'),
    plain('kv_down_norm', latentRank, 'latentRank'),
    { name: 'k_up', kind: 'table', shape: [heads, plainDim, latentRank], sizes: ofLatents },
    { name: 'v_up', kind: 'table', shape: [heads, valueDim, latentRank], sizes: ofLatents },
    linear('o', hiddenSize, heads * valueDim, 'hiddenSize', 'heads', 'valueDim'),
  ]
}

function moeWeights({ hiddenSize, experts, router, shared }: ModelConfig): WeightSpec[] {
  return [
    { name: 'router', kind: 'router', shape: [experts, hiddenSize], sizes: ['experts', 'hiddenSize'] },
    ...(router.bias === 'none' ? [] : [plain('router_bias', experts, 'experts')]),
    ...(shared === null ? [] : swigluWeights('shared_', hiddenSize, shared.size, 'sharedSize')),
    ...(shared?.gated === true ? [{ name: 'shared_scale', kind: 'router', shape: [1, hiddenSize], sizes: ['hiddenSize'] } as const] : []),
  ]
}

function swigluWeights(prefix: string, hiddenSize: number, size: number, sizeName: SizeName): [WeightSpec, WeightSpec, WeightSpec] {
  return [
    linear(`${prefix}gate`, size, hiddenSize, sizeName, 'hiddenSize'),
    linear(`${prefix}up`, size, hiddenSize, sizeName, 'hiddenSize'),
    linear(`${prefix}down`, hiddenSize, size, 'hiddenSize', sizeName),
  ]
}

function linear(name: string, outputs: number, inputs: number, ...sizes: readonly SizeName[]): WeightSpec {
  return { name, kind: 'linear', shape: [outputs, inputs], sizes }
}

function plain(name: string, size: number, ...sizes: readonly SizeName[]): WeightSpec {
  return { name, kind: 'plain', shape: [size], sizes }
}
