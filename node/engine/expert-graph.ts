import type { ModelConfig } from '../model/manifest.ts'
import { OnnxGraph } from './onnx-graph.ts'
import type { BlobWeights } from './weights.ts'

/** One expert's SwiGLU: `x` f32 [n, hidden] → `y` f32 [n, hidden]. */
export function expertGraph(config: ModelConfig, weights: BlobWeights): Uint8Array {
  const { hiddenSize, expertSize } = config
  const graph = new OnnxGraph('expert')
  graph.input('x', 'f32', ['n', hiddenSize])
  graph.output('y', 'f32', ['n', hiddenSize])
  weights.addLinear(graph, 'gate', 'x', 'gated', hiddenSize, expertSize)
  weights.addLinear(graph, 'up', 'x', 'lifted', hiddenSize, expertSize)
  // QuickGelu with alpha 1 is SiLU in one node.
  graph.microsoft('QuickGelu', ['gated'], ['activated'], { alpha: { float: 1 } })
  graph.node('Mul', ['activated', 'lifted'], ['inner'])
  weights.addLinear(graph, 'down', 'inner', 'y', expertSize, hiddenSize)
  return graph.toBytes()
}
