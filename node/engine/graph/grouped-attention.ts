import type { GroupedAttention, ModelConfig } from '../../model/model-config.ts'
import type { OnnxGraph } from '../onnx-graph.ts'
import type { BlobWeights } from '../weights.ts'
import { addRotation } from './rotation.ts'

/** Optional inputs of GroupQueryAttention that come before `head_sink`: tables of rotation, positions, a bias of the scores. */
const BEFORE_SINKS = ['', '', '', '']

/** `attn_in` → `attn_out` [1, s, hidden] and `new_k`, `new_v`; reads the inputs of the layer's graph. `window`: tokens seen, null for all. */
export function addGroupedAttention(
  graph: OnnxGraph,
  weights: BlobWeights,
  part: { readonly config: ModelConfig; readonly attention: GroupedAttention; readonly window: number | null },
): void {
  const { attention, window, config } = part
  const { hiddenSize, rope } = config
  const { heads, kvHeads, headDim, bias } = attention
  const queries = heads * headDim
  const keys = kvHeads * headDim
  const project = (name: string, output: string, outputs: number): void =>
    bias === 'none'
      ? weights.addLinear(graph, name, 'attn_in', output, hiddenSize, outputs)
      : weights.addBiasedLinear(graph, name, 'attn_in', output, hiddenSize, outputs)
  project('q', 'q0', queries)
  project('k', 'k0', keys)
  project('v', attention.clipQkv === null ? 'new_v' : 'v0', keys)
  const q1 = addQueryKeyNorm(graph, weights, part, 'q', heads)
  const k1 = addQueryKeyNorm(graph, weights, part, 'k', kvHeads)
  const [q2, k2] = addClip(graph, attention.clipQkv, q1, k1)
  addRotation(graph, rope, { input: q2, output: 'q_rotated' }, heads, headDim)
  addRotation(graph, rope, { input: k2, output: 'new_k' }, kvHeads, headDim)
  if (attention.sinks) weights.addPlain(graph, 'sinks', [heads])
  // The present outputs must be named though nobody reads them: left out, the result is silently wrong (FACTS E3).
  graph.microsoft(
    'GroupQueryAttention',
    ['q_rotated', 'new_k', 'new_v', 'past_k', 'past_v', 'last', 'total', ...(attention.sinks ? [...BEFORE_SINKS, 'sinks'] : [])],
    ['attn', 'present_k', 'present_v'],
    {
      num_heads: heads,
      kv_num_heads: kvHeads,
      scale: { float: attention.scale },
      ...(window === null ? {} : { local_window_size: window }),
    },
  )
  if (bias === 'qkvo') weights.addBiasedLinear(graph, 'o', 'attn', 'attn_out', queries, hiddenSize)
  else weights.addLinear(graph, 'o', 'attn', 'attn_out', queries, hiddenSize)
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
