import type { HfConfig } from '../hf-config.ts'
import type { ModelConfig } from '../model-config.ts'
import { MODEL_LIMITS } from '../model-limits.ts'
import { denseLayers } from './common-config.ts'

/** Qwen's rule: dense are the layers of `mlp_only_layers`, and of the others all but every `decoder_sparse_step`th. */
export function readQwenDenseLayers(hf: HfConfig, layers: number): ModelConfig['dense'] {
  const step = hf.count('decoder_sparse_step', MODEL_LIMITS.layers, 1)
  const only = hf.raw('mlp_only_layers') ?? []
  if (!Array.isArray(only) || !only.every((layer) => Number.isInteger(layer))) {
    throw hf.unsupported('mlp_only_layers', 'it must be a list of layer numbers')
  }
  return denseLayers(hf, layers, (layer) => only.includes(layer) || (layer + 1) % step !== 0)
}
