import type { ModelConfig } from '../../model/model-config.ts'
import { OnnxGraph } from '../onnx-graph.ts'
import type { BlobWeights } from '../weights.ts'
import { addScale } from './scale.ts'

/** Final norm and lm_head: `h`, `moe` f32 [1, s, hidden] → `logits` f32 [1, s, vocab]. */
export function headGraph(config: ModelConfig, weights: BlobWeights): Uint8Array {
  const { hiddenSize, vocabSize, scales } = config
  const graph = new OnnxGraph('head')
  graph.input('h', 'f32', [1, 's', hiddenSize])
  graph.input('moe', 'f32', [1, 's', hiddenSize])
  graph.output('logits', 'f32', [1, 's', vocabSize])
  weights.addPlain(graph, 'final_norm', [hiddenSize])
  graph.microsoft('SkipSimplifiedLayerNormalization', ['h', 'moe', 'final_norm'], ['normed'], { epsilon: { float: config.normEpsilon } })
  // Before the projection, which is linear: there are fewer numbers than logits.
  weights.addLinear(graph, 'lm_head', addScale(graph, 'normed', scales.logits), 'logits', hiddenSize, vocabSize)
  return graph.toBytes()
}
