import { cacheShape, isDense, windowOf } from '../../model/model-config.ts'
import type { ModelConfig } from '../../model/model-config.ts'
import { OnnxGraph } from '../onnx-graph.ts'
import type { BlobWeights } from '../weights.ts'
import { addGroupedAttention } from './grouped-attention.ts'
import { addLatentAttention } from './latent-attention.ts'
import { addMlp } from './mlp.ts'
import { addRouter } from './router.ts'
import { addScale } from './scale.ts'

const OWN_MLP = Object.freeze({ input: 'x', activation: { kind: 'swiglu' }, bias: false } as const)

/**
 * All of one layer but its routed experts, for one sequence of s tokens, with the residual sum of the layer before fused in.
 *
 * Inputs: `h`, `moe` f32 [1, s, hidden] (residual stream, experts' sum of the layer before);
 * `past_k` and, unless values are the keys, `past_v` f32 [1, cache heads, capacity, width] (tokens before these; read only);
 * `cos`, `sin` f32 [s, rope.dim / 2] (rotation of each token's position);
 * `last` i32 [1] (position of the last of these tokens), `total` i32 scalar (tokens held and new).
 *
 * Outputs: `h2` [1, s, hidden]; `new_k` and, unless values are the keys, `new_v` [1, s, cache heads * width] (to be copied into the cache
 * by the caller); in a layer with experts also `x` [1, s, hidden] (what they are fed), `weights` f32 and `experts` i32 [1, s, k].
 */
export function layerGraph(config: ModelConfig, layer: number, weights: BlobWeights): Uint8Array {
  const { hiddenSize, attention, rope, scales } = config
  const epsilon = { epsilon: { float: config.normEpsilon } }
  const cache = cacheShape(config)
  const graph = new OnnxGraph('layer')
  graph.input('h', 'f32', [1, 's', hiddenSize])
  graph.input('moe', 'f32', [1, 's', hiddenSize])
  graph.input('past_k', 'f32', [1, cache.heads, 'capacity', cache.width])
  if (cache.separateValues) graph.input('past_v', 'f32', [1, cache.heads, 'capacity', cache.width])
  graph.input('cos', 'f32', ['s', rope.dim / 2])
  graph.input('sin', 'f32', ['s', rope.dim / 2])
  graph.input('last', 'i32', [1])
  graph.input('total', 'i32', [])
  graph.output('h2', 'f32', [1, 's', hiddenSize])
  if (!isDense(config, layer)) {
    graph.output('x', 'f32', [1, 's', hiddenSize])
    graph.output('weights', 'f32', [1, 's', config.expertsPerToken])
    graph.output('experts', 'i32', [1, 's', config.expertsPerToken])
  }
  graph.output('new_k', 'f32', [1, 's', cache.heads * cache.width])
  if (cache.separateValues) graph.output('new_v', 'f32', [1, 's', cache.heads * cache.width])

  weights.addPlain(graph, 'attn_norm', [hiddenSize])
  graph.microsoft('SkipSimplifiedLayerNormalization', ['h', 'moe', 'attn_norm'], ['attn_in', '', '', 'h1'], epsilon)
  const window = windowOf(config, layer)
  if (attention.kind === 'grouped') addGroupedAttention(graph, weights, { config, attention, window })
  else addLatentAttention(graph, weights, { config, attention, window })
  const attended = addScale(graph, 'attn_out', scales.residual)
  weights.addPlain(graph, 'ffn_norm', [hiddenSize])

  // What the trunk itself computes of the rest is part of the residual stream at once.
  const own = isDense(config, layer) ? config.dense : config.shared
  const sum = own === null ? 'h2' : 'attn_sum'
  graph.microsoft('SkipSimplifiedLayerNormalization', ['h1', attended, 'ffn_norm'], ['x', '', '', sum], epsilon)
  if (isDense(config, layer)) {
    addMlp(graph, weights, { ...OWN_MLP, prefix: 'dense_', output: 'own', hiddenSize, size: config.dense!.size })
  } else {
    addRouter(graph, weights, config)
    if (config.shared !== null) addShared(graph, weights, config.shared, hiddenSize)
  }
  if (own !== null) graph.node('Add', [sum, addScale(graph, 'own', scales.residual)], ['h2'])
  return graph.toBytes()
}

/** `own`: the shared expert's output, times the sigmoid of its gate where it has one. */
function addShared(graph: OnnxGraph, weights: BlobWeights, shared: NonNullable<ModelConfig['shared']>, hiddenSize: number): void {
  const output = shared.gated ? 'shared_out' : 'own'
  addMlp(graph, weights, { ...OWN_MLP, prefix: 'shared_', output, hiddenSize, size: shared.size })
  if (!shared.gated) return
  weights.addPlain(graph, 'shared_scale', [hiddenSize, 1])
  graph.node('MatMul', ['x', 'shared_scale'], ['shared_logit'])
  graph.node('Sigmoid', ['shared_logit'], ['shared_gate_value'])
  graph.node('Mul', [output, 'shared_gate_value'], ['own'])
}
