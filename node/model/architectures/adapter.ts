import type { CheckpointTensors } from '../checkpoint-tensors.ts'
import type { HfConfig } from '../hf-config.ts'
import type { Architecture, ModelConfig } from '../model-config.ts'
import type { SourceTensor } from '../source-tensor.ts'
import type { WeightSpec } from '../weight-specs.ts'

/** What one architecture calls things: its config.json and its tensors. */
export interface ArchitectureAdapter {
  readonly architecture: Architecture
  /** Throws `ModelError` for what is malformed or not supported. */
  readConfig(hf: HfConfig, eosTokenIds: readonly number[]): ModelConfig
  /** Where a weight of a `layer` blob lies; several sources follow one another. Throws `ModelError` when one is missing or has another shape. */
  layerWeight(at: LayerPlace, spec: WeightSpec): readonly SourceTensor[]
  /** Where a weight of one expert lies. Throws like `layerWeight`. */
  expertWeight(at: ExpertPlace, spec: WeightSpec): SourceTensor
}

export interface LayerPlace {
  readonly tensors: CheckpointTensors
  readonly config: ModelConfig
  readonly layer: number
}

export interface ExpertPlace extends LayerPlace {
  readonly expert: number
}

/** Names that all known architectures share. */
export const COMMON_TENSORS = Object.freeze({
  embed: 'model.embed_tokens.weight',
  finalNorm: 'model.norm.weight',
  lmHead: 'lm_head.weight',
})
