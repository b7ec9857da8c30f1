import { MODEL_LIMITS } from '../model-limits.ts'
import { SIZE_FIELDS } from './adapter.ts'
import type { ArchitectureAdapter } from './adapter.ts'
import { denseLayers, readCommonConfig, readExpertsPerToken, readGroupedAttention } from './common-config.ts'
import { readRope } from './rope.ts'
import { readSharedExperts, readSigmoidRouter } from './routers.ts'
import { namedLayerWeights, routedExperts, SHARED_EXPERTS } from './tensor-names.ts'

/** GLM-4.5: half of each head rotated, DeepSeek-V3's router and shared experts. Layers for predicting several tokens are left out. */
export const glm4Moe: ArchitectureAdapter = {
  architecture: 'Glm4MoeForCausalLM',
  sizeFields: { ...SIZE_FIELDS, experts: 'n_routed_experts' },
  readConfig: (hf, eosTokenIds) => {
    const common = readCommonConfig(hf, { normEpsilon: 1e-5 })
    const attention = readGroupedAttention(hf, {
      bias: hf.flag('attention_bias', false) ? 'qkv' : 'none',
      qkNorm: hf.flag('use_qk_norm', false) ? 'head' : 'none',
    })
    const { rope, maxContext } = readRope(hf, { theta: 10_000, size: attention.headDim, partial: 0.5 })
    const experts = hf.count('n_routed_experts', MODEL_LIMITS.experts)
    const expertSize = hf.count('moe_intermediate_size', MODEL_LIMITS.expertSize)
    const firstWithExperts = hf.whole('first_k_dense_replace', MODEL_LIMITS.layers, 1)
    return {
      ...common,
      architecture: 'Glm4MoeForCausalLM',
      attention,
      rope,
      maxContext,
      dense: denseLayers(hf, common.layers, (layer) => layer < firstWithExperts),
      shared: readSharedExperts(hf, expertSize),
      experts,
      expertsPerToken: readExpertsPerToken(hf, experts),
      expertSize,
      router: readSigmoidRouter(hf, experts, { scale: 1 }),
      eosTokenIds,
    }
  },
  layerWeight: namedLayerWeights({ ...SHARED_EXPERTS, router_bias: 'mlp.gate.e_score_correction_bias' }),
  expertWeight: routedExperts(),
}
