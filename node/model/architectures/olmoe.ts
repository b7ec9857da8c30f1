import { MODEL_LIMITS } from '../model-limits.ts'
import { SIZE_FIELDS } from './adapter.ts'
import type { ArchitectureAdapter } from './adapter.ts'
import { readCommonConfig, readExpertsPerToken, readGroupedAttention } from './common-config.ts'
import { readRope } from './rope.ts'
import { namedLayerWeights, routedExperts } from './tensor-names.ts'

/** OLMoE: one q/k norm over the whole projection, optional clamp of q, k and v after it. */
export const olmoe: ArchitectureAdapter = {
  architecture: 'OlmoeForCausalLM',
  sizeFields: { ...SIZE_FIELDS, expertSize: 'intermediate_size' },
  readConfig: (hf, eosTokenIds) => {
    const clipQkv = hf.raw('clip_qkv') === undefined ? null : hf.positive('clip_qkv')
    const attention = readGroupedAttention(hf, { qkNorm: 'full', clipQkv })
    const experts = hf.count('num_experts', MODEL_LIMITS.experts, 64)
    const { rope, maxContext } = readRope(hf, { theta: 10_000, size: attention.headDim })
    return {
      ...readCommonConfig(hf, { normEpsilon: 1e-5 }),
      architecture: 'OlmoeForCausalLM',
      attention,
      rope,
      maxContext,
      experts,
      expertsPerToken: readExpertsPerToken(hf, experts),
      expertSize: hf.count('intermediate_size', MODEL_LIMITS.expertSize),
      router: { scoring: 'softmax', bias: 'none', groups: null, normalise: hf.flag('norm_topk_prob', false), scale: 1 },
      eosTokenIds,
    }
  },
  layerWeight: namedLayerWeights(),
  expertWeight: routedExperts(),
}
