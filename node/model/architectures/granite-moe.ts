import { MODEL_LIMITS } from '../model-limits.ts'
import { SIZE_FIELDS } from './adapter.ts'
import type { ArchitectureAdapter } from './adapter.ts'
import { readCommonConfig, readExpertsPerToken, readGroupedAttention } from './common-config.ts'
import { readRope } from './rope.ts'
import { fusedExpert, hasFusedExperts, namedLayerWeights } from './tensor-names.ts'
import type { FusedNames } from './tensor-names.ts'

const PUBLISHED: FusedNames = Object.freeze({
  gateUp: 'block_sparse_moe.input_linear.weight',
  down: 'block_sparse_moe.output_linear.weight',
})
/** As transformers 5 holds them. */
const HELD: FusedNames = Object.freeze({ gateUp: 'block_sparse_moe.experts.gate_up_proj', down: 'block_sparse_moe.experts.down_proj' })
const publishedNames = namedLayerWeights({ router: 'block_sparse_moe.router.layer.weight' })
const heldNames = namedLayerWeights({ router: 'block_sparse_moe.router.weight' })

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
  layerWeight: (at, spec) => (hasFusedExperts(at, HELD) ? heldNames : publishedNames)(at, spec),
  expertWeight: (at, { name }) => fusedExpert(at, name, hasFusedExperts(at, HELD) ? HELD : PUBLISHED),
}
