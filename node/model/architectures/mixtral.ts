import { MODEL_LIMITS } from '../model-limits.ts'
import { SIZE_FIELDS } from './adapter.ts'
import type { ArchitectureAdapter } from './adapter.ts'
import { readCommonConfig, readExpertsPerToken, readGroupedAttention, readSliding } from './common-config.ts'
import { readRope } from './rope.ts'
import { hasFusedExperts, namedLayerWeights, routedExperts } from './tensor-names.ts'

const publishedNames = namedLayerWeights({ router: 'block_sparse_moe.gate.weight' })
const heldNames = namedLayerWeights()

/** Mixtral: no q/k norm; the softmax is taken over the chosen experts only, which equals renormalising. */
export const mixtral: ArchitectureAdapter = {
  architecture: 'MixtralForCausalLM',
  sizeFields: { ...SIZE_FIELDS, experts: 'num_local_experts', expertSize: 'intermediate_size' },
  readConfig: (hf, eosTokenIds) => {
    const common = readCommonConfig(hf, { normEpsilon: 1e-5 })
    const attention = readGroupedAttention(hf)
    const { rope, maxContext } = readRope(hf, { theta: 1_000_000, size: attention.headDim })
    const experts = hf.count('num_local_experts', MODEL_LIMITS.experts)
    return {
      ...common,
      architecture: 'MixtralForCausalLM',
      attention,
      rope,
      maxContext,
      sliding: readSliding(hf, { layers: common.layers, maxContext }, { on: true, isSliding: () => true }),
      experts,
      expertsPerToken: readExpertsPerToken(hf, experts),
      expertSize: hf.count('intermediate_size', MODEL_LIMITS.expertSize),
      router: { scoring: 'softmax', bias: 'none', groups: null, normalise: true, scale: 1 },
      eosTokenIds,
    }
  },
  // Where the experts are as transformers 5 holds them, the router is too.
  layerWeight: (at, spec) => (hasFusedExperts(at) ? heldNames : publishedNames)(at, spec),
  expertWeight: routedExperts('block_sparse_moe.experts', { gate: 'w1', up: 'w3', down: 'w2' }),
}
