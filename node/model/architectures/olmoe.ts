import { MODEL_LIMITS } from '../model-limits.ts'
import type { ArchitectureAdapter } from './adapter.ts'
import { readCommonConfig, readExpertsPerToken } from './adapter.ts'

/** OLMoE: one q/k norm over the whole projection, optional clamp of q, k and v after it. */
export const olmoe: ArchitectureAdapter = {
  architecture: 'OlmoeForCausalLM',
  readConfig: (hf, eosTokenIds) => {
    const experts = hf.count('num_experts', MODEL_LIMITS.experts, 64)
    return {
      ...readCommonConfig(hf, { ropeTheta: 10_000, normEpsilon: 1e-5 }),
      architecture: 'OlmoeForCausalLM',
      qkNorm: 'full',
      clipQkv: hf.raw('clip_qkv') === undefined ? null : hf.positive('clip_qkv'),
      experts,
      expertsPerToken: readExpertsPerToken(hf, experts),
      expertSize: hf.count('intermediate_size', MODEL_LIMITS.expertSize),
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
