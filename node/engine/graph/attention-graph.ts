import { OnnxGraph } from '../onnx-graph.ts'
import type { OnnxType } from '../onnx-graph.ts'
import { BLOCK_TOKENS } from '../kv-shape.ts'
import type { AttentionShape, KvType } from '../kv-shape.ts'

/** TensorProto.DataType FLOAT, the `to` of Cast. */
const TO_FLOAT = 1
/** Of keys and values as inputs of a graph. */
export const STORED_AS: Readonly<Record<KvType, OnnxType>> = Object.freeze({ f32: 'f32', q16: 'i16', q8: 'i8' })

interface Attention {
  readonly graph: OnnxGraph
  readonly shape: AttentionShape
  readonly type: KvType
  readonly isQuantised: boolean
  /** Query heads of a key-value head. */
  readonly group: number
  /** Numbers of the runs of blocks. */
  readonly runs: readonly number[]
  /** Names of a run's keys and values as f32, before their scales. */
  readonly keys: (run: number) => string
  readonly values: (run: number) => string
}

/**
 * Attention of s tokens of one sequence over its blocks, which hold these tokens too. No weights: layers of one shape share it.
 *
 * Inputs: `queries` f32 [1, s, heads * keyWidth]; for each of `extents` runs of blocks e: `k<e>` [blocks, kvHeads, BLOCK_TOKENS, keyWidth]
 * and, unless values are keys, `v<e>` [blocks, kvHeads, BLOCK_TOKENS, valueWidth], unless they are f32 each with a `k<e>_scale`, `v<e>_scale` f32
 * [blocks, kvHeads, 1, BLOCK_TOKENS]; `mask` f32 [blocks of all extents, 1, 1, s, BLOCK_TOKENS]: 0 where a token sees a position, else
 * -Infinity; `sink_scores` f32 [heads] if the shape has sinks. Output: `attention` f32 [1, s, heads * valueWidth].
 *
 * Sums are taken within each block and then over the blocks in order, so that neither the number of blocks nor how they lie in memory
 * shows in the bits.
 */
export function attentionGraph(shape: AttentionShape, type: KvType, extents: number): Uint8Array {
  const graph = new OnnxGraph('attention')
  const isQuantised = type !== 'f32'
  const attention: Attention = {
    graph,
    shape,
    type,
    isQuantised,
    group: shape.heads / shape.kvHeads,
    runs: Array.from({ length: extents }, (_, e) => e),
    keys: (e) => (isQuantised ? `keys${e}` : `k${e}`),
    values: (e) => (shape.valuesAreKeys ? attention.keys(e) : isQuantised ? `values${e}` : `v${e}`),
  }
  graph.input('queries', 'f32', [1, 's', shape.heads * shape.keyWidth])
  graph.input('mask', 'f32', ['blocks', 1, 1, 's', BLOCK_TOKENS])
  if (shape.sinks) graph.input('sink_scores', 'f32', [shape.heads])
  graph.output('attention', 'f32', [1, 's', shape.heads * shape.valueWidth])
  graph.constant('in_block', [1], BigInt64Array.of(4n))
  graph.constant('over_blocks', [1], BigInt64Array.of(0n))
  addBlocks(attention)
  addScores(attention)
  addSoftmax(attention)
  addValues(attention)
  return graph.toBytes()
}

/** What the blocks hold, as f32 and before their scales. */
function addBlocks({ graph, shape, type, isQuantised, runs, keys, values }: Attention): void {
  const { kvHeads, keyWidth, valueWidth, valuesAreKeys } = shape
  const block = (e: number, name: string, width: number, output: string): void => {
    graph.input(name, STORED_AS[type], [`blocks${e}`, kvHeads, BLOCK_TOKENS, width])
    if (!isQuantised) return
    graph.input(`${name}_scale`, 'f32', [`blocks${e}`, kvHeads, 1, BLOCK_TOKENS])
    graph.node('Cast', [name], [output], { to: TO_FLOAT })
  }
  for (const e of runs) {
    block(e, `k${e}`, keyWidth, keys(e))
    if (!valuesAreKeys) block(e, `v${e}`, valueWidth, values(e))
  }
}

/** `scores` [blocks, kvHeads, group, s, BLOCK_TOKENS], masked. */
function addScores({ graph, shape, isQuantised, group, runs, keys }: Attention): void {
  const { kvHeads, keyWidth } = shape
  graph.constant('factor', [], Float32Array.of(shape.scale))
  graph.node('Mul', ['queries', 'factor'], ['scaled'])
  // Rows of a key-value head: its group of heads, then the tokens.
  graph.reshape('scaled', 'queries_by_token', [-1, kvHeads, group, keyWidth])
  graph.node('Transpose', ['queries_by_token'], ['queries_by_head'], { perm: [1, 2, 0, 3] })
  graph.reshape('queries_by_head', 'rows', [1, kvHeads, -1, keyWidth])
  for (const e of runs) {
    graph.microsoft('FusedMatMul', ['rows', keys(e)], [isQuantised ? `products${e}` : `scores${e}`], { transB: 1 })
    if (isQuantised) graph.node('Mul', [`products${e}`, `k${e}_scale`], [`scores${e}`])
  }
  // The mask is the same for all heads: with tokens on an axis of their own it need not be repeated for each.
  graph.reshape(addJoined(graph, 'scores', runs), 'scores_by_token', [0, kvHeads, group, -1, BLOCK_TOKENS])
  graph.node('Add', ['scores_by_token', 'mask'], ['masked'])
}

/** `weights`: the exponentials [blocks, kvHeads, group, s, BLOCK_TOKENS]; `sum`: what they are to be divided by [1, kvHeads, group, s, 1]. */
function addSoftmax({ graph, shape, group }: Attention): void {
  const { sinks, kvHeads } = shape
  graph.node('ReduceMax', ['masked', 'in_block'], ['block_max'], { keepdims: 1 })
  graph.node('ReduceMax', ['block_max', 'over_blocks'], [sinks ? 'seen_max' : 'max'], { keepdims: 1 })
  if (sinks) {
    graph.reshape('sink_scores', 'sinks', [1, kvHeads, group, 1, 1])
    graph.node('Max', ['seen_max', 'sinks'], ['max'])
  }
  graph.node('Sub', ['masked', 'max'], ['below_max'])
  graph.node('Exp', ['below_max'], ['weights'])
  graph.node('ReduceSum', ['weights', 'in_block'], ['block_sum'], { keepdims: 1 })
  graph.node('ReduceSum', ['block_sum', 'over_blocks'], [sinks ? 'seen_sum' : 'sum'], { keepdims: 1 })
  if (!sinks) return
  graph.node('Sub', ['sinks', 'max'], ['sinks_below_max'])
  graph.node('Exp', ['sinks_below_max'], ['sink_weights'])
  graph.node('Add', ['seen_sum', 'sink_weights'], ['sum'])
}

/** `attention`: the values' weighted mean, token by token. */
function addValues({ graph, shape, isQuantised, group, runs, values }: Attention): void {
  const { heads, kvHeads, valueWidth, valuesAreKeys } = shape
  graph.reshape('weights', 'weights_joined', [0, kvHeads, -1, BLOCK_TOKENS])
  if (runs.length > 1) {
    for (const e of runs) graph.node('Shape', [`k${e}`], [`length${e}`], { start: 0, end: 1 })
    const parts = runs.map((e) => `weights${e}`)
    graph.node('Split', ['weights_joined', addJoined(graph, 'length', runs)], parts, { axis: 0 })
  }
  for (const e of runs) {
    const weights = runs.length > 1 ? `weights${e}` : 'weights_joined'
    const scaled = isQuantised ? `weights${e}_scaled` : weights
    if (isQuantised) graph.node('Mul', [weights, valuesAreKeys ? `k${e}_scale` : `v${e}_scale`], [scaled])
    graph.node('MatMul', [scaled, values(e)], [`part${e}`])
  }
  graph.node('ReduceSum', [addJoined(graph, 'part', runs), 'over_blocks'], ['total'], { keepdims: 1 })
  graph.reshape('total', 'total_by_token', [1, kvHeads, group, -1, valueWidth])
  graph.node('Div', ['total_by_token', 'sum'], ['mean'])
  graph.node('Transpose', ['mean'], ['mean_by_token'], { perm: [0, 3, 1, 2, 4] })
  graph.reshape('mean_by_token', 'attention', [1, -1, heads * valueWidth])
}

/** The runs' tensors `name<e>` one after the other; returns the name of the result. */
function addJoined(graph: OnnxGraph, name: string, runs: readonly number[]): string {
  if (runs.length === 1) return `${name}0`
  const parts = runs.map((e) => `${name}${e}`)
  graph.node('Concat', parts, [`${name}_joined`], { axis: 0 })
  return `${name}_joined`
}
