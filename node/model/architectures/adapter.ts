import type { CheckpointTensors } from '../checkpoint-tensors.ts'
import type { HfConfig } from '../hf-config.ts'
import type { Architecture, ModelConfig } from '../model-config.ts'
import type { SourceTensor } from '../source-tensor.ts'
import type { SizeName, WeightSpec } from '../weight-specs.ts'

/** What one architecture calls things: its config.json and its tensors. */
export interface ArchitectureAdapter {
  readonly architecture: Architecture
  /** Fields of config.json that sizes are read from; {@link SIZE_FIELDS} as most architectures have them. */
  readonly sizeFields: Readonly<Record<SizeName, string>>
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

export const SIZE_FIELDS: Readonly<Record<SizeName, string>> = Object.freeze({
  hiddenSize: 'hidden_size',
  vocabSize: 'vocab_size',
  heads: 'num_attention_heads',
  kvHeads: 'num_key_value_heads',
  headDim: 'head_dim',
  queryRank: 'q_lora_rank',
  latentRank: 'kv_lora_rank',
  plainDim: 'qk_nope_head_dim',
  ropeDim: 'qk_rope_head_dim',
  valueDim: 'v_head_dim',
  experts: 'num_experts',
  expertSize: 'moe_intermediate_size',
  denseSize: 'intermediate_size',
  sharedSize: 'n_shared_experts',
})

/** Names that all known architectures share. */
export const COMMON_TENSORS = Object.freeze({
  embed: 'model.embed_tokens.weight',
  finalNorm: 'model.norm.weight',
  lmHead: 'lm_head.weight',
})
