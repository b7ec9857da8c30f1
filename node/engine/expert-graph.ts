import type { ModelConfig } from '../model/model-config.ts'
import { addMlp } from './graph/mlp.ts'
import { OnnxGraph } from './onnx-graph.ts'
import type { BlobWeights } from './weights.ts'

/** One expert: `x` f32 [n, hidden] → `y` f32 [n, hidden]. */
export function expertGraph(config: ModelConfig, weights: BlobWeights): Uint8Array {
  const { hiddenSize, expertSize, expertActivation, expertBias } = config
  const graph = new OnnxGraph('expert')
  graph.input('x', 'f32', ['n', hiddenSize])
  graph.output('y', 'f32', ['n', hiddenSize])
  const part = { prefix: '', input: 'x', output: 'y', hiddenSize, size: expertSize }
  addMlp(graph, weights, { ...part, activation: expertActivation, bias: expertBias })
  return graph.toBytes()
}
