import type { RopeConfig } from '../../model/model-config.ts'
import type { OnnxGraph } from '../onnx-graph.ts'

/**
 * Rotates the first `rope.dim` numbers of each head of `input` [1, s, heads * size] by the graph's inputs `cos` and `sin`,
 * which hold the rotations of just these tokens: positions count from 0 within them.
 */
export function addRotation(
  graph: OnnxGraph,
  rope: RopeConfig,
  names: { readonly input: string; readonly output: string },
  heads: number,
  size: number,
): void {
  const first = `${names.output}_first`
  graph.constant(first, [1], BigInt64Array.of(0n))
  graph.microsoft('RotaryEmbedding', [names.input, first, 'cos', 'sin'], [names.output], {
    num_heads: heads,
    interleaved: rope.interleaved ? 1 : 0,
    // 0 stands for the whole head.
    rotary_embedding_dim: rope.dim === size ? 0 : rope.dim,
  })
}
