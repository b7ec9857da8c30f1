import type { OnnxGraph } from '../onnx-graph.ts'

/** Multiplies by a number; returns the name of the result, which is the input where the factor is 1. */
export function addScale(graph: OnnxGraph, input: string, factor: number): string {
  if (factor === 1) return input
  const constant = `${input}_factor`
  const output = `${input}_scaled`
  graph.constant(constant, [], Float32Array.of(factor))
  graph.node('Mul', [input, constant], [output])
  return output
}
