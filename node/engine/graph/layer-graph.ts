import { cacheShape, isDense } from '../../model/model-config.ts'
import type { ModelConfig } from '../../model/model-config.ts'
import { OnnxGraph } from '../onnx-graph.ts'
import type { BlobWeights } from '../weights.ts'
import { addGroupedOutput, addGroupedQueries } from './grouped-attention.ts'
import { addLatentOutput, addLatentQueries } from './latent-attention.ts'
import { addMlp } from './mlp.ts'
import { addRouter } from './router.ts'
import { addScale } from './scale.ts'

const OWN_MLP = Object.freeze({ input: 'x', activation: { kind: 'swiglu' }, bias: false } as const)

/**
 * What comes before the attention of one layer, for n tokens of any sequences, with the residual sum of the layer before fused in.
 *
 * Inputs: `h`, `moe` f32 [1, n, hidden] (residual stream, experts' sum of the layer before);
 * `cos`, `sin` f32 [n, rope.dim / 2] (rotation of each token's position).
 *
 * Outputs: `h1` [1, n, hidden] (residual stream); `queries` [1, n, heads * width]; `new_k` and, unless values are the keys, `new_v`
 * [1, n, cache heads * width] (for the key-value memory); `sink_scores` [heads] where the architecture has them.
 */
export function beforeAttentionGraph(config: ModelConfig, weights: BlobWeights): Uint8Array {
  const { hiddenSize, attention, rope } = config
  const cache = cacheShape(config)
  const graph = new OnnxGraph('before_attention')
  graph.input('h', 'f32', [1, 'n', hiddenSize])
  graph.input('moe', 'f32', [1, 'n', hiddenSize])
  graph.input('cos', 'f32', ['n', rope.dim / 2])
  graph.input('sin', 'f32', ['n', rope.dim / 2])
  graph.output('h1', 'f32', [1, 'n', hiddenSize])
  graph.output('queries', 'f32', [1, 'n', attention.heads * cache.width])
  graph.output('new_k', 'f32', [1, 'n', cache.heads * cache.width])
  if (cache.separateValues) graph.output('new_v', 'f32', [1, 'n', cache.heads * cache.width])

  weights.addPlain(graph, 'attn_norm', [hiddenSize])
  const epsilon = { epsilon: { float: config.normEpsilon } }
  graph.microsoft('SkipSimplifiedLayerNormalization', ['h', 'moe', 'attn_norm'], ['attn_in', '', '', 'h1'], epsilon)
  if (attention.kind === 'grouped') addGroupedQueries(graph, weights, config, attention)
  else addLatentQueries(graph, weights, config, attention)
  return graph.toBytes()
}

/**
 * What comes after the attention of one layer up to what its experts are asked, for n tokens of any sequences; all of a dense layer.
 *
 * Inputs: `h1` f32 [1, n, hidden], `attention` f32 [1, n, heads * width].
 * Outputs: `h2` [1, n, hidden]; in a layer with experts also `x` [1, n, hidden] (what they are fed), `weights` f32 and `experts` i32 [1, n, k].
 */
export function afterAttentionGraph(config: ModelConfig, layer: number, weights: BlobWeights): Uint8Array {
  const { hiddenSize, attention, scales } = config
  const dense = isDense(config, layer) ? config.dense : null
  const graph = new OnnxGraph('after_attention')
  graph.input('h1', 'f32', [1, 'n', hiddenSize])
  graph.input('attention', 'f32', [1, 'n', attention.heads * cacheShape(config).width])
  graph.output('h2', 'f32', [1, 'n', hiddenSize])

  if (attention.kind === 'grouped') addGroupedOutput(graph, weights, config, attention)
  else addLatentOutput(graph, weights, config, attention)
  const attended = addScale(graph, 'attn_out', scales.residual)
  weights.addPlain(graph, 'ffn_norm', [hiddenSize])
  const epsilon = { epsilon: { float: config.normEpsilon } }
  const sum = dense === null ? 'h2' : 'attn_sum'
  graph.microsoft('SkipSimplifiedLayerNormalization', ['h1', attended, 'ffn_norm'], ['x', '', '', sum], epsilon)
  if (dense === null) {
    graph.output('x', 'f32', [1, 'n', hiddenSize])
    graph.output('weights', 'f32', [1, 'n', config.expertsPerToken])
    graph.output('experts', 'i32', [1, 'n', config.expertsPerToken])
    addRouter(graph, weights, config)
  } else {
    addMlp(graph, weights, { ...OWN_MLP, prefix: 'dense_', output: 'own', hiddenSize, size: dense.size })
    graph.node('Add', [sum, addScale(graph, 'own', scales.residual)], ['h2'])
  }
  return graph.toBytes()
}

/**
 * The shared expert of a layer, or null where it has none: `x` and `h2` of {@link afterAttentionGraph} → `h3` [1, n, hidden], the residual
 * stream with the shared expert's part. A graph of its own, so that it can be computed while routed experts are waited for.
 */
export function sharedExpertGraph(config: ModelConfig, layer: number, weights: BlobWeights): Uint8Array | null {
  const { hiddenSize, shared, scales } = config
  if (shared === null || isDense(config, layer)) return null
  const graph = new OnnxGraph('shared_expert')
  graph.input('x', 'f32', [1, 'n', hiddenSize])
  graph.input('h2', 'f32', [1, 'n', hiddenSize])
  graph.output('h3', 'f32', [1, 'n', hiddenSize])
  const output = shared.gated ? 'ungated' : 'own'
  addMlp(graph, weights, { ...OWN_MLP, prefix: 'shared_', output, hiddenSize, size: shared.size })
  if (shared.gated) {
    weights.addPlain(graph, 'shared_scale', [hiddenSize, 1])
    graph.node('MatMul', ['x', 'shared_scale'], ['gate_logit'])
    graph.node('Sigmoid', ['gate_logit'], ['gate'])
    graph.node('Mul', [output, 'gate'], ['own'])
  }
  graph.node('Add', ['h2', addScale(graph, 'own', scales.residual)], ['h3'])
  return graph.toBytes()
}
