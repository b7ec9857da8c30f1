import { MODEL_LIMITS } from '../model-limits.ts'
import { rowRange, sliceOf } from '../source-tensor.ts'
import { SIZE_FIELDS } from './adapter.ts'
import type { ArchitectureAdapter } from './adapter.ts'
import { readCommonConfig, readExpertsPerToken, readGroupedAttention } from './common-config.ts'
import { readRope } from './rope.ts'
import { namedLayerWeights } from './tensor-names.ts'

/** Granite 3 MoE: factors in four places; all experts of a layer in two tensors. */
export const graniteMoe: ArchitectureAdapter = {
  architecture: 'GraniteMoeForCausalLM',
  sizeFields: { ...SIZE_FIELDS, experts: 'num_local_experts', expertSize: 'intermediate_size' },
  readConfig: (hf, eosTokenIds) => {
    const attention = readGroupedAttention(hf, { scale: hf.positive('attention_multiplier', 1) })
    const { rope, maxContext } = readRope(hf, { theta: 10_000, size: attention.headDim })
    const experts = hf.count('num_local_experts', MODEL_LIMITS.experts)
    return {
      ...readCommonConfig(hf, { normEpsilon: 1e-6 }),
      architecture: 'GraniteMoeForCausalLM',
      attention,
      rope,
      maxContext,
      experts,
      expertsPerToken: readExpertsPerToken(hf, experts),
      expertSize: hf.count('intermediate_size', MODEL_LIMITS.expertSize),
      // The softmax is taken over the chosen experts only, which equals renormalising.
      router: { scoring: 'softmax', bias: 'none', groups: null, normalise: true, scale: 1 },
      scales: {
        embedding: hf.positive('embedding_multiplier', 1),
        residual: hf.positive('residual_multiplier', 1),
        logits: 1 / hf.positive('logits_scaling', 1),
      },
      eosTokenIds,
    }
  },
  layerWeight: namedLayerWeights({ router: 'block_sparse_moe.router.layer.weight' }),
  expertWeight: ({ tensors, config, layer, expert }, { name, shape }) => {
    const { experts, expertSize, hiddenSize } = config
    const prefix = `model.layers.${layer}.block_sparse_moe`
    if (name === 'down') return sliceOf(tensors.get(`${prefix}.output_linear.weight`, [experts, ...shape]), expert)
    const both = sliceOf(tensors.get(`${prefix}.input_linear.weight`, [experts, 2 * expertSize, hiddenSize]), expert)
    return rowRange(both, name === 'gate' ? 0 : expertSize, expertSize)
  },
}
