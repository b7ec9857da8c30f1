import { MODEL_LIMITS } from '../model-limits.ts'
import { SIZE_FIELDS } from './adapter.ts'
import type { ArchitectureAdapter } from './adapter.ts'
import { readCommonConfig, readExpertsPerToken, readGroupedAttention, readSliding } from './common-config.ts'
import { readQwenDenseLayers } from './qwen-dense-layers.ts'
import { readRope } from './rope.ts'
import { namedLayerWeights, routedExperts } from './tensor-names.ts'

/** Qwen3-MoE: one q/k norm per head. */
export const qwen3Moe: ArchitectureAdapter = {
  architecture: 'Qwen3MoeForCausalLM',
  sizeFields: SIZE_FIELDS,
  readConfig: (hf, eosTokenIds) => {
    const common = readCommonConfig(hf, { normEpsilon: 1e-6 })
    const attention = readGroupedAttention(hf, { qkNorm: 'head' })
    const { rope, maxContext } = readRope(hf, { theta: 10_000, size: attention.headDim })
    // transformers 5 saves it under the name that Mixtral has for it.
    const experts = hf.count(hf.raw('num_local_experts') === undefined ? 'num_experts' : 'num_local_experts', MODEL_LIMITS.experts)
    return {
      ...common,
      architecture: 'Qwen3MoeForCausalLM',
      attention,
      rope,
      maxContext,
      sliding: readSliding(hf, { layers: common.layers, maxContext }, { on: false, isSliding: () => true }),
      dense: readQwenDenseLayers(hf, common.layers),
      experts,
      expertsPerToken: readExpertsPerToken(hf, experts),
      expertSize: hf.count('moe_intermediate_size', MODEL_LIMITS.expertSize),
      router: { scoring: 'softmax', bias: 'none', groups: null, normalise: hf.flag('norm_topk_prob', false), scale: 1 },
      eosTokenIds,
    }
  },
  layerWeight: namedLayerWeights(),
  expertWeight: routedExperts(),
}
