import type { HfConfig } from '../hf-config.ts'

/** Options that change what some model computes, with values at which they are off: see `isOff`. */
const OPTIONS: readonly string[] = [
  'attention_bias',
  'attention_chunk_size',
  'attn_logit_softcapping',
  'clip_qkv',
  'final_logit_softcapping',
  'first_k_dense_replace',
  'hidden_act',
  'kv_lora_rank',
  'layer_types',
  'mlp_bias',
  'mlp_only_layers',
  'n_shared_experts',
  'norm_topk_prob',
  'num_shared_experts',
  'q_lora_rank',
  'qkv_bias',
  'query_pre_attn_scalar',
  'quantization_config',
  'rope_interleave',
  'rope_scaling',
  'scoring_func',
  'shared_expert_intermediate_size',
  'shared_intermediate_size',
  'sliding_window',
  'swiglu_alpha',
  'swiglu_limit',
  'topk_method',
  'use_qk_norm',
  'use_sliding_window',
]
/** The same, off at 1 too. */
const FACTORS: readonly string[] = [
  'attention_multiplier',
  'decoder_sparse_step',
  'embedding_multiplier',
  'logits_scaling',
  'moe_layer_freq',
  'n_group',
  'partial_rotary_factor',
  'residual_multiplier',
  'routed_scaling_factor',
  'topk_group',
]

/** Refuses an option that the architecture's adapter has not looked at: nothing in config.json is ignored that would change the result. */
export function refuseUnreadOptions(hf: HfConfig): void {
  for (const field of hf.unread) {
    const value = hf.raw(field)
    if (isOff(value) || (FACTORS.includes(field) && value === 1)) continue
    if (OPTIONS.includes(field) || FACTORS.includes(field)) throw hf.unsupported(field, 'this architecture has no such option here')
  }
}

function isOff(value: unknown): boolean {
  // `layer_types` of a model that has but one kind of attention.
  if (Array.isArray(value)) return value.every((item) => item === 'full_attention')
  return value === undefined || value === false || value === 0 || value === ''
}
