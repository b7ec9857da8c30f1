import type { HfConfig } from '../hf-config.ts'
import type { GroupedAttention, ModelConfig } from '../model-config.ts'
import { MODEL_LIMITS } from '../model-limits.ts'
import { checkQuantisation } from './quantised-checkpoint.ts'

const SLIDING = 'sliding_attention'
const LAYER_TYPES: readonly unknown[] = ['full_attention', SLIDING]

/** The fields that are called alike everywhere, and what most architectures do without. Refuses what the engine does not run. */
export function readCommonConfig(
  hf: HfConfig,
  defaults: { readonly normEpsilon: number },
): Pick<
  ModelConfig,
  'hiddenSize' | 'layers' | 'vocabSize' | 'normEpsilon' | 'sliding' | 'dense' | 'shared' | 'expertActivation' | 'expertBias' | 'scales'
> {
  if ((hf.raw('hidden_act') ?? 'silu') !== 'silu') throw hf.unsupported('hidden_act', 'only silu is')
  if (hf.flag('mlp_bias', false)) throw hf.unsupported('mlp_bias', 'dense layers have no biases here')
  checkQuantisation(hf)
  return {
    hiddenSize: hf.count('hidden_size', MODEL_LIMITS.hiddenSize),
    layers: hf.count('num_hidden_layers', MODEL_LIMITS.layers),
    vocabSize: hf.count('vocab_size', MODEL_LIMITS.vocabSize),
    normEpsilon: hf.positive('rms_norm_eps', defaults.normEpsilon),
    sliding: null,
    dense: null,
    shared: null,
    expertActivation: { kind: 'swiglu' },
    expertBias: false,
    scales: { embedding: 1, residual: 1, logits: 1 },
  }
}

/** Attention with biases on all four projections where `attention_bias` says so. */
export function readGroupedAttention(hf: HfConfig, init: Partial<GroupedAttention> = {}): GroupedAttention {
  const heads = hf.count('num_attention_heads', MODEL_LIMITS.heads)
  const kvHeads = hf.count('num_key_value_heads', MODEL_LIMITS.heads, heads)
  if (heads % kvHeads !== 0) throw hf.unsupported('num_key_value_heads', `it does not divide the ${heads} attention heads`)
  const hiddenSize = hf.count('hidden_size', MODEL_LIMITS.hiddenSize)
  const headDim = hf.count('head_dim', MODEL_LIMITS.headDim, Math.floor(hiddenSize / heads))
  return {
    kind: 'grouped',
    heads,
    kvHeads,
    headDim,
    qkNorm: 'none',
    clipQkv: null,
    bias: hf.flag('attention_bias', false) ? 'qkvo' : 'none',
    sinks: false,
    scale: 1 / Math.sqrt(headDim),
    ...init,
  }
}

/** Which layers have a window where config.json does not say it in `layer_types`. */
export interface SlidingRule {
  /** Where `use_sliding_window` is not given. */
  readonly on: boolean
  /** null: without `layer_types`, a window that is on is refused. */
  readonly isSliding: ((layer: number) => boolean) | null
}

/** `sliding_window`, which `use_sliding_window` may turn off, and its layers; null when it covers the whole context. */
export function readSliding(
  hf: HfConfig,
  { layers, maxContext }: Pick<ModelConfig, 'layers' | 'maxContext'>,
  rule: SlidingRule,
): ModelConfig['sliding'] {
  const types = readLayerTypes(hf, layers)
  const given = hf.raw('sliding_window')
  if (!hf.flag('use_sliding_window', rule.on) || given === undefined) return null
  const window = hf.count('sliding_window', MODEL_LIMITS.maxContext)
  if (window >= maxContext) return null
  if (types === undefined && rule.isSliding === null) {
    throw hf.unsupported('use_sliding_window', 'layer_types must say which layers have the window')
  }
  const all = Array.from({ length: layers }, (_, layer) => layer)
  const sliding = all.filter((layer) => (types === undefined ? rule.isSliding!(layer) : types[layer] === SLIDING))
  return sliding.length === 0 ? null : { window, layers: sliding }
}

function readLayerTypes(hf: HfConfig, layers: number): readonly unknown[] | undefined {
  const types = hf.raw('layer_types')
  if (types === undefined) return undefined
  if (!Array.isArray(types) || types.length !== layers || !types.every((type) => LAYER_TYPES.includes(type))) {
    throw hf.unsupported('layer_types', `expected ${LAYER_TYPES.join(' or ')} for each of the ${layers} layers`)
  }
  return types
}

/** Chosen experts per token, at most the number of experts. */
export function readExpertsPerToken(hf: HfConfig, experts: number): number {
  return hf.count('num_experts_per_tok', Math.min(experts, MODEL_LIMITS.expertsPerToken))
}

/** Layers for which `isDenseLayer` holds; null when there are none. Refuses a model without a layer of experts. */
export function denseLayers(hf: HfConfig, layers: number, isDenseLayer: (layer: number) => boolean): ModelConfig['dense'] {
  const dense = Array.from({ length: layers }, (_, layer) => layer).filter(isDenseLayer)
  if (dense.length === 0) return null
  if (dense.length === layers) throw hf.unsupported('num_hidden_layers', 'no layer would have experts')
  return { size: hf.count('intermediate_size', MODEL_LIMITS.expertSize), layers: dense }
}
