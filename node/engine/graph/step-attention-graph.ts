import { OnnxGraph } from '../onnx-graph.ts'
import { BLOCK_TOKENS } from '../kv-shape.ts'
import { STORED_AS } from './attention-graph.ts'
import type { AttentionShape, KvType } from '../kv-shape.ts'

/** TensorProto.DataType FLOAT, the `to` of Cast. */
const TO_FLOAT = 1

/**
 * Attention of one token each of several sequences, over as many blocks each, that lie in one run per sequence: the usual step of
 * queries that are answered together. What a sequence gets does not depend on the others, and is what `attentionGraph` computes, in
 * fewer operators. No weights: layers of one shape share it.
 *
 * Inputs: `queries` f32 [1, sequences, heads * keyWidth]; `k<i>`, `v<i>` and their scales of sequence i as in `attentionGraph`, with equal
 * numbers of blocks; `mask` f32 [sequences, blocks, 1, 1, BLOCK_TOKENS]; `sink_scores` f32 [heads] if the shape has sinks. Output:
 * `attention` f32 [1, sequences, heads * valueWidth].
 */
export function stepAttentionGraph(shape: AttentionShape, type: KvType, sequences: number): Uint8Array {
  const { heads, kvHeads, keyWidth, valueWidth, valuesAreKeys, sinks } = shape
  const group = heads / kvHeads
  const isQuantised = type !== 'f32'
  const each = Array.from({ length: sequences }, (_, i) => i)
  const graph = new OnnxGraph('step_attention')
  graph.input('queries', 'f32', [1, sequences, heads * keyWidth])
  graph.input('mask', 'f32', [sequences, 'blocks', 1, 1, BLOCK_TOKENS])
  if (sinks) graph.input('sink_scores', 'f32', [heads])
  graph.output('attention', 'f32', [1, sequences, heads * valueWidth])
  graph.constant('over_blocks', [1], BigInt64Array.of(1n))
  graph.constant('in_block', [1], BigInt64Array.of(4n))
  graph.constant('everywhere', [2], BigInt64Array.of(1n, 4n))
  graph.constant('factor', [], Float32Array.of(shape.scale))

  const store = (name: string, width: number): string => {
    graph.input(name, STORED_AS[type], ['blocks', kvHeads, BLOCK_TOKENS, width])
    if (!isQuantised) return name
    graph.input(`${name}_scale`, 'f32', ['blocks', kvHeads, 1, BLOCK_TOKENS])
    graph.node('Cast', [name], [`${name}_f32`], { to: TO_FLOAT })
    return `${name}_f32`
  }
  const keys = each.map((i) => store(`k${i}`, keyWidth))
  const values = valuesAreKeys ? keys : each.map((i) => store(`v${i}`, valueWidth))
  const split = (from: string): string[] => {
    if (sequences === 1) return [from]
    const parts = each.map((i) => `${from}${i}`)
    graph.node('Split', [from], parts, { axis: 0, num_outputs: sequences })
    return parts
  }
  /** [sequences, blocks, kvHeads, group, width] of the sequences' [blocks, kvHeads, group, width]. */
  const join = (parts: readonly string[], output: string, width: number): void => {
    if (sequences > 1) graph.node('Concat', parts, [`${output}_joined`], { axis: 0 })
    graph.reshape(sequences > 1 ? `${output}_joined` : parts[0]!, output, [sequences, -1, kvHeads, group, width])
  }

  graph.node('Mul', ['queries', 'factor'], ['scaled'])
  graph.reshape('scaled', 'rows', [sequences, kvHeads, group, keyWidth])
  const scores = split('rows').map((rows, i) => {
    graph.microsoft('FusedMatMul', [rows, keys[i]!], [`products${i}`], { transB: 1 })
    if (isQuantised) graph.node('Mul', [`products${i}`, `k${i}_scale`], [`scores${i}`])
    return isQuantised ? `scores${i}` : `products${i}`
  })
  join(scores, 'scores', BLOCK_TOKENS)
  graph.node('Add', ['scores', 'mask'], ['masked'])
  graph.node('ReduceMax', ['masked', 'everywhere'], [sinks ? 'seen_max' : 'max'], { keepdims: 1 })
  if (sinks) {
    graph.reshape('sink_scores', 'sinks', [1, 1, kvHeads, group, 1])
    graph.node('Max', ['seen_max', 'sinks'], ['max'])
  }
  graph.node('Sub', ['masked', 'max'], ['below_max'])
  graph.node('Exp', ['below_max'], ['exponentials'])
  graph.node('ReduceSum', ['exponentials', 'in_block'], ['block_sum'], { keepdims: 1 })
  graph.node('ReduceSum', ['block_sum', 'over_blocks'], [sinks ? 'seen_sum' : 'sum'], { keepdims: 1 })
  if (sinks) {
    graph.node('Sub', ['sinks', 'max'], ['sinks_below_max'])
    graph.node('Exp', ['sinks_below_max'], ['sink_weights'])
    graph.node('Add', ['seen_sum', 'sink_weights'], ['sum'])
  }
  graph.reshape('exponentials', 'weights', [-1, kvHeads, group, BLOCK_TOKENS])
  const parts = split('weights').map((weights, i) => {
    const scale = valuesAreKeys ? `k${i}_scale` : `v${i}_scale`
    if (isQuantised) graph.node('Mul', [weights, scale], [`scaled_weights${i}`])
    graph.node('MatMul', [isQuantised ? `scaled_weights${i}` : weights, values[i]!], [`part${i}`])
    return `part${i}`
  })
  join(parts, 'parts', valueWidth)
  graph.node('ReduceSum', ['parts', 'over_blocks'], ['total'], { keepdims: 1 })
  graph.node('Div', ['total', 'sum'], ['mean'])
  graph.reshape('mean', 'attention', [1, sequences, heads * valueWidth])
  return graph.toBytes()
}
