import { MODEL_LIMITS } from '../model-limits.ts'
import type { ArchitectureAdapter } from './adapter.ts'
import { readCommonConfig, readExpertsPerToken } from './adapter.ts'

/** Qwen3-MoE: one q/k norm per head, every layer a mixture. */
export const qwen3Moe: ArchitectureAdapter = {
  architecture: 'Qwen3MoeForCausalLM',
  readConfig: (hf, eosTokenIds) => {
    const dense = hf.raw('mlp_only_layers') ?? []
    if (!Array.isArray(dense) || dense.length > 0) throw hf.unsupported('mlp_only_layers', 'every layer must be a mixture of experts')
    if (hf.count('decoder_sparse_step', MODEL_LIMITS.layers, 1) !== 1) {
      throw hf.unsupported('decoder_sparse_step', 'every layer must be a mixture of experts')
    }
    const experts = hf.count('num_experts', MODEL_LIMITS.experts)
    return {
      ...readCommonConfig(hf, { ropeTheta: 10_000, normEpsilon: 1e-6 }),
      architecture: 'Qwen3MoeForCausalLM',
      qkNorm: 'head',
      clipQkv: null,
      experts,
      expertsPerToken: readExpertsPerToken(hf, experts),
      expertSize: hf.count('moe_intermediate_size', MODEL_LIMITS.expertSize),
      normTopK: hf.flag('norm_topk_prob', false),
      eosTokenIds,
    }
  },
  router: (layer) => `model.layers.${layer}.mlp.gate.weight`,
  expert: (layer, expert) => {
    const prefix = `model.layers.${layer}.mlp.experts.${expert}`
    return { gate: `${prefix}.gate_proj.weight`, up: `${prefix}.up_proj.weight`, down: `${prefix}.down_proj.weight` }
  },
}
