import type { Activation } from '../../model/model-config.ts'
import type { OnnxGraph } from '../onnx-graph.ts'
import type { BlobWeights } from '../weights.ts'

export interface MlpPart {
  /** Of the weights' names: `<prefix>gate`, `<prefix>up`, `<prefix>down`. */
  readonly prefix: string
  readonly input: string
  readonly output: string
  readonly hiddenSize: number
  /** Inner width. */
  readonly size: number
  readonly activation: Activation
  /** Whether each of the three has a bias. */
  readonly bias: boolean
}

/** `output` = down(activation(gate(input), up(input))). */
export function addMlp(graph: OnnxGraph, weights: BlobWeights, part: MlpPart): void {
  const { prefix, input, output, hiddenSize, size, bias } = part
  const linear = (name: string, from: string, to: string, inputs: number, outputs: number): void =>
    bias
      ? weights.addBiasedLinear(graph, `${prefix}${name}`, from, to, inputs, outputs)
      : weights.addLinear(graph, `${prefix}${name}`, from, to, inputs, outputs)
  linear('gate', input, `${prefix}gated`, hiddenSize, size)
  linear('up', input, `${prefix}lifted`, hiddenSize, size)
  if (part.activation.kind === 'swiglu') addSwiGlu(graph, prefix)
  else addClampedSwiGlu(graph, prefix, part.activation)
  linear('down', `${prefix}inner`, output, size, hiddenSize)
}

/** QuickGelu(x) is x · sigmoid(alpha · x): SiLU with alpha 1, in one node. */
function addSwiGlu(graph: OnnxGraph, prefix: string): void {
  graph.microsoft('QuickGelu', [`${prefix}gated`], [`${prefix}activated`], { alpha: { float: 1 } })
  graph.node('Mul', [`${prefix}activated`, `${prefix}lifted`], [`${prefix}inner`])
}

function addClampedSwiGlu(graph: OnnxGraph, prefix: string, { alpha, limit }: { readonly alpha: number; readonly limit: number }): void {
  graph.constant(`${prefix}limit`, [], Float32Array.of(limit))
  graph.constant(`${prefix}lower_limit`, [], Float32Array.of(-limit))
  graph.constant(`${prefix}one`, [], Float32Array.of(1))
  graph.node('Clip', [`${prefix}gated`, '', `${prefix}limit`], [`${prefix}gate_clamped`])
  graph.node('Clip', [`${prefix}lifted`, `${prefix}lower_limit`, `${prefix}limit`], [`${prefix}up_clamped`])
  graph.microsoft('QuickGelu', [`${prefix}gate_clamped`], [`${prefix}activated`], { alpha: { float: alpha } })
  graph.node('Add', [`${prefix}up_clamped`, `${prefix}one`], [`${prefix}up_shifted`])
  graph.node('Mul', [`${prefix}activated`, `${prefix}up_shifted`], [`${prefix}inner`])
}
