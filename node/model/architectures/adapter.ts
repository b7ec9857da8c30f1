import type { HfConfig } from '../hf-config.ts'
import type { Architecture, ModelConfig } from '../manifest.ts'
import { MODEL_LIMITS } from '../model-limits.ts'

/** What one architecture calls things: its config.json and its tensors. */
export interface ArchitectureAdapter {
  readonly architecture: Architecture
  /** Throws `ModelError` for what is malformed or not supported. */
  readConfig(hf: HfConfig, eosTokenIds: readonly number[]): ModelConfig
  /** Name of the router's weight [experts, hidden] of a layer. */
  router(layer: number): string
  /** Names of the weights of one expert: gate and up [expertSize, hidden], down [hidden, expertSize]. */
  expert(layer: number, expert: number): { readonly gate: string; readonly up: string; readonly down: string }
}

/** Names that all known architectures share. */
export const COMMON_TENSORS = Object.freeze({
  embed: 'model.embed_tokens.weight',
  finalNorm: 'model.norm.weight',
  lmHead: 'lm_head.weight',
})

/** Hugging Face names of the tensors of a `layer` blob, except for the router, by our name. */
export function layerTensorName(layer: number, name: string): string {
  const prefix = `model.layers.${layer}`
  if (name === 'attn_norm') return `${prefix}.input_layernorm.weight`
  if (name === 'ffn_norm') return `${prefix}.post_attention_layernorm.weight`
  return name.endsWith('_norm') ? `${prefix}.self_attn.${name}.weight` : `${prefix}.self_attn.${name}_proj.weight`
}

/** The fields that are called alike everywhere. Refuses what no engine of ours runs. */
export function readCommonConfig(
  hf: HfConfig,
  defaults: { readonly ropeTheta: number; readonly normEpsilon: number },
): Omit<ModelConfig, 'architecture' | 'qkNorm' | 'clipQkv' | 'experts' | 'expertsPerToken' | 'expertSize' | 'normTopK' | 'eosTokenIds'> {
  refuseUnsupported(hf)
  const hiddenSize = hf.count('hidden_size', MODEL_LIMITS.hiddenSize)
  const heads = hf.count('num_attention_heads', MODEL_LIMITS.heads)
  const kvHeads = hf.count('num_key_value_heads', MODEL_LIMITS.heads, heads)
  if (heads % kvHeads !== 0) throw hf.unsupported('num_key_value_heads', `it does not divide the ${heads} attention heads`)
  const headDim = hf.count('head_dim', MODEL_LIMITS.headDim, Math.floor(hiddenSize / heads))
  if (headDim % 2 !== 0) throw hf.unsupported('head_dim', 'rotary embedding needs an even size')
  return {
    hiddenSize,
    layers: hf.count('num_hidden_layers', MODEL_LIMITS.layers),
    heads,
    kvHeads,
    headDim,
    vocabSize: hf.count('vocab_size', MODEL_LIMITS.vocabSize),
    maxContext: hf.count('max_position_embeddings', MODEL_LIMITS.maxContext),
    ropeTheta: readRopeTheta(hf, defaults.ropeTheta),
    normEpsilon: hf.positive('rms_norm_eps', defaults.normEpsilon),
  }
}

function refuseUnsupported(hf: HfConfig): void {
  if ((hf.raw('hidden_act') ?? 'silu') !== 'silu') throw hf.unsupported('hidden_act', 'only silu is')
  if (hf.flag('attention_bias', false)) throw hf.unsupported('attention_bias', 'attention projections have no bias here')
  if (hf.raw('quantization_config') !== undefined) {
    throw hf.unsupported('quantization_config', 'pack an unquantised checkpoint (F32, F16 or BF16) and choose --quant here')
  }
  const window = hf.raw('sliding_window')
  const context = hf.count('max_position_embeddings', MODEL_LIMITS.maxContext)
  if (window !== undefined && hf.flag('use_sliding_window', true) && !(typeof window === 'number' && window >= context)) {
    throw hf.unsupported('sliding_window', 'attention always sees the whole context here')
  }
}

/** `rope_theta`, or the newer `rope_parameters`; scaled variants are refused. */
function readRopeTheta(hf: HfConfig, fallback: number): number {
  for (const field of ['rope_scaling', 'rope_parameters']) {
    const value = hf.raw(field)
    if (value === undefined) continue
    const kind = typeof value === 'object' && value !== null ? ropeKind(value as Record<string, unknown>) : value
    if (kind !== 'default') throw hf.unsupported(field, 'only unscaled rotary embedding is; remove it to run with the original context')
  }
  const newer = hf.raw('rope_parameters')
  const theta = typeof newer === 'object' && newer !== null && 'rope_theta' in newer ? newer.rope_theta : undefined
  return typeof theta === 'number' && theta > 0 && Number.isFinite(theta) ? theta : hf.positive('rope_theta', fallback)
}

function ropeKind(scaling: Record<string, unknown>): unknown {
  return scaling['rope_type'] ?? scaling['type'] ?? 'default'
}

/** Chosen experts per token, at most the number of experts. */
export function readExpertsPerToken(hf: HfConfig, experts: number): number {
  return hf.count('num_experts_per_tok', Math.min(experts, MODEL_LIMITS.expertsPerToken))
}
