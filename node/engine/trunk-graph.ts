import type { ModelConfig } from '../model/manifest.ts'
import { OnnxGraph } from './onnx-graph.ts'
import type { BlobWeights } from './weights.ts'

/** TensorProto.DataType INT32, the `to` of Cast. */
const TO_INT32 = 6

/**
 * Attention, norms and router of one layer for one sequence of s tokens, with the residual sum of the layer before fused in.
 *
 * Inputs: `h`, `moe` f32 [1, s, hidden] (residual stream, experts' sum of the layer before);
 * `past_k`, `past_v` f32 [1, kvHeads, capacity, headDim] (tokens before these; read only);
 * `cos`, `sin` f32 [s, headDim / 2] (rotation of each token's position);
 * `last` i32 [1] (position of the last of these tokens), `total` i32 scalar (tokens held and new).
 *
 * Outputs: `h2` [1, s, hidden], `x` [1, s, hidden] (what experts are fed), `weights` f32 and `experts` i32 [1, s, k],
 * `new_k`, `new_v` [1, s, kvHeads * headDim] (to be copied into the cache by the caller).
 */
export function layerGraph(config: ModelConfig, weights: BlobWeights): Uint8Array {
  const { hiddenSize, heads, kvHeads, headDim, experts, expertsPerToken } = config
  const epsilon = { epsilon: { float: config.normEpsilon } }
  const queryWidth = heads * headDim
  const keyWidth = kvHeads * headDim
  const graph = new OnnxGraph('layer')

  graph.input('h', 'f32', [1, 's', hiddenSize])
  graph.input('moe', 'f32', [1, 's', hiddenSize])
  graph.input('past_k', 'f32', [1, kvHeads, 'capacity', headDim])
  graph.input('past_v', 'f32', [1, kvHeads, 'capacity', headDim])
  graph.input('cos', 'f32', ['s', headDim / 2])
  graph.input('sin', 'f32', ['s', headDim / 2])
  graph.input('last', 'i32', [1])
  graph.input('total', 'i32', [])
  graph.output('h2', 'f32', [1, 's', hiddenSize])
  graph.output('x', 'f32', [1, 's', hiddenSize])
  graph.output('weights', 'f32', [1, 's', expertsPerToken])
  graph.output('experts', 'i32', [1, 's', expertsPerToken])
  graph.output('new_k', 'f32', [1, 's', keyWidth])
  graph.output('new_v', 'f32', [1, 's', keyWidth])

  weights.addPlain(graph, 'attn_norm', [hiddenSize])
  graph.microsoft('SkipSimplifiedLayerNormalization', ['h', 'moe', 'attn_norm'], ['attn_in', '', '', 'h1'], epsilon)
  weights.addLinear(graph, 'q', 'attn_in', 'q0', hiddenSize, queryWidth)
  weights.addLinear(graph, 'k', 'attn_in', 'k0', hiddenSize, keyWidth)
  weights.addLinear(graph, 'v', 'attn_in', config.clipQkv === null ? 'new_v' : 'v0', hiddenSize, keyWidth)
  const q1 = addQueryKeyNorm(graph, config, weights, 'q', heads)
  const k1 = addQueryKeyNorm(graph, config, weights, 'k', kvHeads)
  const [q2, k2] = addClip(graph, config, q1, k1)
  addRotation(graph, q2, 'q_rotated', heads)
  addRotation(graph, k2, 'new_k', kvHeads)
  // The present outputs must be named though nobody reads them: left out, the result is silently wrong (FACTS E3).
  graph.microsoft(
    'GroupQueryAttention',
    ['q_rotated', 'new_k', 'new_v', 'past_k', 'past_v', 'last', 'total'],
    ['attn', 'present_k', 'present_v'],
    { num_heads: heads, kv_num_heads: kvHeads, scale: { float: 1 / Math.sqrt(headDim) } },
  )
  weights.addLinear(graph, 'o', 'attn', 'attn_out', queryWidth, hiddenSize)
  weights.addPlain(graph, 'ffn_norm', [hiddenSize])
  graph.microsoft('SkipSimplifiedLayerNormalization', ['h1', 'attn_out', 'ffn_norm'], ['x', '', '', 'h2'], epsilon)

  weights.addPlain(graph, 'router', [hiddenSize, experts])
  graph.node('MatMul', ['x', 'router'], ['router_logits'])
  graph.node('Softmax', ['router_logits'], ['router_probs'], { axis: -1 })
  graph.constant('top_k', [1], BigInt64Array.of(BigInt(expertsPerToken)))
  const chosen = config.normTopK ? 'chosen_probs' : 'weights'
  graph.node('TopK', ['router_probs', 'top_k'], [chosen, 'experts_i64'], { axis: -1, largest: 1, sorted: 1 })
  graph.node('Cast', ['experts_i64'], ['experts'], { to: TO_INT32 })
  if (config.normTopK) {
    graph.constant('last_axis', [1], BigInt64Array.of(-1n))
    graph.node('ReduceSum', [chosen, 'last_axis'], ['chosen_sum'], { keepdims: 1 })
    graph.node('Div', [chosen, 'chosen_sum'], ['weights'])
  }
  return graph.toBytes()
}

/** Norm of the queries or keys where the architecture has one; returns the name of the result. */
function addQueryKeyNorm(graph: OnnxGraph, config: ModelConfig, weights: BlobWeights, side: 'q' | 'k', heads: number): string {
  const { headDim, qkNorm } = config
  const input = `${side}0`
  if (qkNorm === 'none') return input
  const attributes = { axis: -1, epsilon: { float: config.normEpsilon }, stash_type: 1 }
  const scale = `${side}_norm`
  const output = `${side}1`
  if (qkNorm === 'full') {
    weights.addPlain(graph, scale, [heads * headDim])
    graph.node('SimplifiedLayerNormalization', [input, scale], [output], attributes)
    return output
  }
  weights.addPlain(graph, scale, [headDim])
  graph.constant(`${side}_split`, [4], BigInt64Array.of(1n, -1n, BigInt(heads), BigInt(headDim)))
  graph.constant(`${side}_joined`, [3], BigInt64Array.of(1n, -1n, BigInt(heads * headDim)))
  graph.node('Reshape', [input, `${side}_split`], [`${side}_heads`])
  graph.node('SimplifiedLayerNormalization', [`${side}_heads`, scale], [`${side}_normed`], attributes)
  graph.node('Reshape', [`${side}_normed`, `${side}_joined`], [output])
  return output
}

/** Clamps queries, keys and values where the architecture asks for it (OLMoE, after the norms). */
function addClip(graph: OnnxGraph, config: ModelConfig, q: string, k: string): [string, string] {
  if (config.clipQkv === null) return [q, k]
  graph.constant('clip_min', [], Float32Array.of(-config.clipQkv))
  graph.constant('clip_max', [], Float32Array.of(config.clipQkv))
  graph.node('Clip', [q, 'clip_min', 'clip_max'], ['q_clipped'])
  graph.node('Clip', [k, 'clip_min', 'clip_max'], ['k_clipped'])
  graph.node('Clip', ['v0', 'clip_min', 'clip_max'], ['new_v'])
  return ['q_clipped', 'k_clipped']
}

/** The caller passes the rotations of just these tokens, so positions count from 0 within `cos` and `sin`. */
function addRotation(graph: OnnxGraph, input: string, output: string, heads: number): void {
  const first = `${output}_first`
  graph.constant(first, [1], BigInt64Array.of(0n))
  graph.microsoft('RotaryEmbedding', [input, first, 'cos', 'sin'], [output], { num_heads: heads, interleaved: 0, rotary_embedding_dim: 0 })
}

/** Final norm and lm_head: `h`, `moe` f32 [1, s, hidden] → `logits` f32 [1, s, vocab]. */
export function headGraph(config: ModelConfig, weights: BlobWeights): Uint8Array {
  const { hiddenSize, vocabSize } = config
  const graph = new OnnxGraph('head')
  graph.input('h', 'f32', [1, 's', hiddenSize])
  graph.input('moe', 'f32', [1, 's', hiddenSize])
  graph.output('logits', 'f32', [1, 's', vocabSize])
  weights.addPlain(graph, 'final_norm', [hiddenSize])
  graph.microsoft('SkipSimplifiedLayerNormalization', ['h', 'moe', 'final_norm'], ['head_in'], { epsilon: { float: config.normEpsilon } })
  weights.addLinear(graph, 'lm_head', 'head_in', 'logits', hiddenSize, vocabSize)
  return graph.toBytes()
}
