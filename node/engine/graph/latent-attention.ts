import type { LatentAttention, ModelConfig } from '../../model/model-config.ts'
import type { OnnxGraph } from '../onnx-graph.ts'
import type { BlobWeights } from '../weights.ts'
import { addRotation } from './rotation.ts'

/** Of the norms of latent vectors, whatever config.json says of the others. */
const LATENT_NORM_EPSILON = 1e-6

/**
 * Multi-head latent attention with the projections of keys and values absorbed (DeepSeek-V2, 2.1): each head's plain query is taken to the
 * latent space, so that all heads attend to the cached latents as to one key-value head whose values are its keys, and each head's sum of
 * latents is taken to its values afterwards. The cache is as small as it can be: `latentRank + rope.dim` numbers per token and layer.
 *
 * `attn_in` → `queries` [1, n, heads * (latentRank + rope.dim)] and `new_k` [1, n, latentRank + rope.dim].
 */
export function addLatentQueries(graph: OnnxGraph, weights: BlobWeights, config: ModelConfig, attention: LatentAttention): void {
  addQuery(graph, weights, { config, attention })
  addKey(graph, weights, { config, attention })
}

/** `attention` [1, n, heads * (latentRank + rope.dim)] → `attn_out` [1, n, hidden]. */
export function addLatentOutput(graph: OnnxGraph, weights: BlobWeights, config: ModelConfig, attention: LatentAttention): void {
  const { heads, latentRank, valueDim } = attention
  graph.reshape('attention', 'attn_heads', [1, -1, heads, latentRank + config.rope.dim])
  graph.slice('attn_heads', 'latents', { axis: 3, from: 0, to: latentRank })
  graph.node('Transpose', ['latents'], ['latents_by_head'], { perm: [0, 2, 3, 1] })
  weights.addTable(graph, 'v_up', [heads, valueDim, latentRank])
  graph.node('MatMul', ['v_up', 'latents_by_head'], ['values_by_head'])
  graph.node('Transpose', ['values_by_head'], ['values'], { perm: [0, 3, 1, 2] })
  graph.reshape('values', 'values_joined', [1, -1, heads * valueDim])
  weights.addLinear(graph, 'o', 'values_joined', 'attn_out', heads * valueDim, config.hiddenSize)
}

/** `queries` [1, n, heads * (latentRank + rope.dim)]: each head's plain part in the latent space, then its rotated part. */
function addQuery(
  graph: OnnxGraph,
  weights: BlobWeights,
  { config, attention }: { readonly config: ModelConfig; readonly attention: LatentAttention },
): void {
  const { hiddenSize, rope } = config
  const { heads, queryRank, latentRank, plainDim } = attention
  const size = plainDim + rope.dim
  if (queryRank === null) {
    weights.addLinear(graph, 'q', 'attn_in', 'q0', hiddenSize, heads * size)
  } else {
    weights.addLinear(graph, 'q_down', 'attn_in', 'q_latent', hiddenSize, queryRank)
    addLatentNorm(graph, weights, 'q_down_norm', 'q_latent', 'q_latent_normed', queryRank)
    weights.addLinear(graph, 'q_up', 'q_latent_normed', 'q0', queryRank, heads * size)
  }
  graph.reshape('q0', 'q_heads', [1, -1, heads, size])
  graph.slice('q_heads', 'q_plain', { axis: 3, from: 0, to: plainDim })
  graph.slice('q_heads', 'q_turning', { axis: 3, from: plainDim, to: size })
  graph.reshape('q_turning', 'q_turning_joined', [1, -1, heads * rope.dim])
  addRotation(graph, rope, { input: 'q_turning_joined', output: 'q_rotated_joined' }, heads, rope.dim)
  graph.reshape('q_rotated_joined', 'q_rotated', [1, -1, heads, rope.dim])
  graph.node('Transpose', ['q_plain'], ['q_plain_by_head'], { perm: [0, 2, 1, 3] })
  weights.addTable(graph, 'k_up', [heads, plainDim, latentRank])
  graph.node('MatMul', ['q_plain_by_head', 'k_up'], ['q_absorbed_by_head'])
  graph.node('Transpose', ['q_absorbed_by_head'], ['q_absorbed'], { perm: [0, 2, 1, 3] })
  graph.node('Concat', ['q_absorbed', 'q_rotated'], ['query_heads'], { axis: 3 })
  graph.reshape('query_heads', 'queries', [1, -1, heads * (latentRank + rope.dim)])
}

/** `new_k` [1, n, latentRank + rope.dim]: the token's latent vector and the rotated key that all heads share. */
function addKey(
  graph: OnnxGraph,
  weights: BlobWeights,
  { config, attention }: { readonly config: ModelConfig; readonly attention: LatentAttention },
): void {
  const { hiddenSize, rope } = config
  const { latentRank } = attention
  const width = latentRank + rope.dim
  weights.addLinear(graph, 'kv_down', 'attn_in', 'kv0', hiddenSize, width)
  graph.slice('kv0', 'latent', { axis: 2, from: 0, to: latentRank })
  graph.slice('kv0', 'k_turning', { axis: 2, from: latentRank, to: width })
  addLatentNorm(graph, weights, 'kv_down_norm', 'latent', 'latent_normed', latentRank)
  addRotation(graph, rope, { input: 'k_turning', output: 'k_rotated' }, 1, rope.dim)
  graph.node('Concat', ['latent_normed', 'k_rotated'], ['new_k'], { axis: 2 })
}

function addLatentNorm(graph: OnnxGraph, weights: BlobWeights, name: string, input: string, output: string, size: number): void {
  weights.addPlain(graph, name, [size])
  const attributes = { axis: -1, epsilon: { float: LATENT_NORM_EPSILON }, stash_type: 1 }
  graph.node('SimplifiedLayerNormalization', [input, name], [output], attributes)
}
