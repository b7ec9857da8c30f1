import type { GroupedAttention, ModelConfig } from '../../model/model-config.ts'
import type { OnnxGraph } from '../onnx-graph.ts'
import type { BlobWeights } from '../weights.ts'
import { addRotation } from './rotation.ts'

/** `attn_in` → `queries` [1, n, heads * headDim], `new_k`, `new_v` [1, n, kvHeads * headDim] and, where there are any, `sink_scores` [heads]. */
export function addGroupedQueries(graph: OnnxGraph, weights: BlobWeights, config: ModelConfig, attention: GroupedAttention): void {
  const { hiddenSize, rope } = config
  const { heads, kvHeads, headDim, bias } = attention
  const keys = kvHeads * headDim
  const project = (name: string, output: string, outputs: number): void =>
    bias === 'none'
      ? weights.addLinear(graph, name, 'attn_in', output, hiddenSize, outputs)
      : weights.addBiasedLinear(graph, name, 'attn_in', output, hiddenSize, outputs)
  project('q', 'q0', heads * headDim)
  project('k', 'k0', keys)
  project('v', attention.clipQkv === null ? 'new_v' : 'v0', keys)
  const q1 = addQueryKeyNorm(graph, weights, { config, attention }, 'q', heads)
  const k1 = addQueryKeyNorm(graph, weights, { config, attention }, 'k', kvHeads)
  const [q2, k2] = addClip(graph, attention.clipQkv, q1, k1)
  addRotation(graph, rope, { input: q2, output: 'queries' }, heads, headDim)
  addRotation(graph, rope, { input: k2, output: 'new_k' }, kvHeads, headDim)
  if (!attention.sinks) return
  weights.addPlain(graph, 'sinks', [heads])
  graph.node('Identity', ['sinks'], ['sink_scores'])
  graph.output('sink_scores', 'f32', [heads])
}

/** `attention` [1, n, heads * headDim] → `attn_out` [1, n, hidden]. */
export function addGroupedOutput(graph: OnnxGraph, weights: BlobWeights, config: ModelConfig, attention: GroupedAttention): void {
  const width = attention.heads * attention.headDim
  if (attention.bias === 'qkvo') weights.addBiasedLinear(graph, 'o', 'attention', 'attn_out', width, config.hiddenSize)
  else weights.addLinear(graph, 'o', 'attention', 'attn_out', width, config.hiddenSize)
}

/** Norm of the queries or keys where the architecture has one; returns the name of the result. */
function addQueryKeyNorm(
  graph: OnnxGraph,
  weights: BlobWeights,
  { config, attention }: { readonly config: ModelConfig; readonly attention: GroupedAttention },
  side: 'q' | 'k',
  heads: number,
): string {
  const { headDim, qkNorm } = attention
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
  graph.reshape(input, `${side}_heads`, [1, -1, heads, headDim])
  graph.node('SimplifiedLayerNormalization', [`${side}_heads`, scale], [`${side}_normed`], attributes)
  graph.reshape(`${side}_normed`, output, [1, -1, heads * headDim])
  return output
}

/** Clamps queries, keys and values where the architecture asks for it (OLMoE, after the norms). */
function addClip(graph: OnnxGraph, limit: number | null, q: string, k: string): [string, string] {
  if (limit === null) return [q, k]
  graph.constant('clip_min', [], Float32Array.of(-limit))
  graph.constant('clip_max', [], Float32Array.of(limit))
  graph.node('Clip', [q, 'clip_min', 'clip_max'], ['q_clipped'])
  graph.node('Clip', [k, 'clip_min', 'clip_max'], ['k_clipped'])
  graph.node('Clip', ['v0', 'clip_min', 'clip_max'], ['new_v'])
  return ['q_clipped', 'k_clipped']
}
