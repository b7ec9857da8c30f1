import { MODEL_LIMITS } from '../model-limits.ts'
import type { ArchitectureAdapter } from './adapter.ts'
import { readCommonConfig, readExpertsPerToken } from './adapter.ts'

/** Mixtral: no q/k norm; the softmax is taken over the chosen experts only, which equals renormalising. */
export const mixtral: ArchitectureAdapter = {
  architecture: 'MixtralForCausalLM',
  readConfig: (hf, eosTokenIds) => {
    const experts = hf.count('num_local_experts', MODEL_LIMITS.experts)
    return {
      ...readCommonConfig(hf, { ropeTheta: 1_000_000, normEpsilon: 1e-5 }),
      architecture: 'MixtralForCausalLM',
      qkNorm: 'none',
      clipQkv: null,
      experts,
      expertsPerToken: readExpertsPerToken(hf, experts),
      expertSize: hf.count('intermediate_size', MODEL_LIMITS.expertSize),
      normTopK: true,
      eosTokenIds,
    }
  },
  router: (layer) => `model.layers.${layer}.block_sparse_moe.gate.weight`,
  expert: (layer, expert) => {
    const prefix = `model.layers.${layer}.block_sparse_moe.experts.${expert}`
    return { gate: `${prefix}.w1.weight`, up: `${prefix}.w3.weight`, down: `${prefix}.w2.weight` }
  },
}
