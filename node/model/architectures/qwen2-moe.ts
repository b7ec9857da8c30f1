import { MODEL_LIMITS } from '../model-limits.ts'
import { SIZE_FIELDS } from './adapter.ts'
import type { ArchitectureAdapter } from './adapter.ts'
import { readCommonConfig, readExpertsPerToken, readGroupedAttention, readSliding } from './common-config.ts'
import { readQwenDenseLayers } from './qwen-dense-layers.ts'
import { readRope } from './rope.ts'
import { namedLayerWeights, routedExperts } from './tensor-names.ts'

/** Qwen1.5- and Qwen2-MoE: biases on q, k and v; a shared expert with a gate of its own. */
export const qwen2Moe: ArchitectureAdapter = {
  architecture: 'Qwen2MoeForCausalLM',
  sizeFields: { ...SIZE_FIELDS, sharedSize: 'shared_expert_intermediate_size' },
  readConfig: (hf, eosTokenIds) => {
    const common = readCommonConfig(hf, { normEpsilon: 1e-6 })
    const attention = readGroupedAttention(hf, { bias: hf.flag('qkv_bias', true) ? 'qkv' : 'none' })
    const { rope, maxContext } = readRope(hf, { theta: 10_000, size: attention.headDim })
    const experts = hf.count('num_experts', MODEL_LIMITS.experts)
    return {
      ...common,
      architecture: 'Qwen2MoeForCausalLM',
      attention,
      rope,
      maxContext,
      sliding: readSliding(hf, { layers: common.layers, maxContext }, { on: false, isSliding: null }),
      dense: readQwenDenseLayers(hf, common.layers),
      shared: { size: hf.count('shared_expert_intermediate_size', MODEL_LIMITS.expertSize), gated: true },
      experts,
      expertsPerToken: readExpertsPerToken(hf, experts),
      expertSize: hf.count('moe_intermediate_size', MODEL_LIMITS.expertSize),
      router: { scoring: 'softmax', bias: 'none', groups: null, normalise: hf.flag('norm_topk_prob', false), scale: 1 },
      eosTokenIds,
    }
  },
  layerWeight: namedLayerWeights({
    shared_gate: 'mlp.shared_expert.gate_proj.weight',
    shared_up: 'mlp.shared_expert.up_proj.weight',
    shared_down: 'mlp.shared_expert.down_proj.weight',
    shared_scale: 'mlp.shared_expert_gate.weight',
  }),
  expertWeight: routedExperts(),
}
