import type { HfConfig } from '../hf-config.ts'
import { MODEL_LIMITS } from '../model-limits.ts'
import type { LatentAttention, ModelConfig, RouterConfig } from '../model-config.ts'
import { rowRange } from '../source-tensor.ts'
import { SIZE_FIELDS } from './adapter.ts'
import type { ArchitectureAdapter } from './adapter.ts'
import { denseLayers, readCommonConfig, readExpertsPerToken } from './common-config.ts'
import { readRope } from './rope.ts'
import type { ReadRope } from './rope.ts'
import { readGroups, readSharedExperts, readSigmoidRouter } from './routers.ts'
import { namedLayerWeights, routedExperts, SHARED_EXPERTS } from './tensor-names.ts'

/** DeepSeek-V2: latent attention, shared experts, first layers dense, a softmax router that may be limited to groups. */
export const deepseekV2: ArchitectureAdapter = {
  architecture: 'DeepseekV2ForCausalLM',
  sizeFields: { ...SIZE_FIELDS, experts: 'n_routed_experts' },
  readConfig: (hf, eosTokenIds) => ({
    ...readDeepseek(hf, { interleaved: true, firstWithExperts: 0, router: readSoftmaxRouter }),
    architecture: 'DeepseekV2ForCausalLM',
    eosTokenIds,
  }),
  layerWeight: deepseekLayerWeight(),
  expertWeight: routedExperts(),
}

/** DeepSeek-V3 and R1: the same with a sigmoid router. Layers for predicting several tokens are left out. */
export const deepseekV3: ArchitectureAdapter = {
  architecture: 'DeepseekV3ForCausalLM',
  sizeFields: { ...SIZE_FIELDS, experts: 'n_routed_experts' },
  readConfig: (hf, eosTokenIds) => ({
    ...readDeepseek(hf, {
      interleaved: hf.flag('rope_interleave', true),
      firstWithExperts: 3,
      router: (experts) => readSigmoidRouter(hf, experts, { scale: 2.5 }),
    }),
    architecture: 'DeepseekV3ForCausalLM',
    eosTokenIds,
  }),
  layerWeight: deepseekLayerWeight(),
  expertWeight: routedExperts(),
}

function readDeepseek(
  hf: HfConfig,
  init: {
    readonly interleaved: boolean
    readonly firstWithExperts: number
    readonly router: (experts: number, hf: HfConfig) => RouterConfig
  },
): Omit<ModelConfig, 'architecture' | 'eosTokenIds'> {
  const common = readCommonConfig(hf, { normEpsilon: 1e-6 })
  if (hf.count('moe_layer_freq', MODEL_LIMITS.layers, 1) !== 1) throw hf.unsupported('moe_layer_freq', 'only 1 is')
  const read = readRope(hf, {
    theta: 10_000,
    size: hf.count('qk_rope_head_dim', MODEL_LIMITS.headDim),
    sizeField: 'qk_rope_head_dim',
    interleaved: init.interleaved,
  })
  const experts = hf.count('n_routed_experts', MODEL_LIMITS.experts)
  const expertSize = hf.count('moe_intermediate_size', MODEL_LIMITS.expertSize)
  const firstWithExperts = hf.whole('first_k_dense_replace', MODEL_LIMITS.layers, init.firstWithExperts)
  return {
    ...common,
    attention: readLatentAttention(hf, read),
    rope: read.rope,
    maxContext: read.maxContext,
    dense: denseLayers(hf, common.layers, (layer) => layer < firstWithExperts),
    shared: readSharedExperts(hf, expertSize),
    experts,
    expertsPerToken: readExpertsPerToken(hf, experts),
    expertSize,
    router: init.router(experts, hf),
  }
}

function readLatentAttention(hf: HfConfig, { rope, latentMagnitude }: ReadRope): LatentAttention {
  if (hf.flag('attention_bias', false)) throw hf.unsupported('attention_bias', 'latent attention has no biases here')
  const heads = hf.count('num_attention_heads', MODEL_LIMITS.heads)
  if (hf.count('num_key_value_heads', MODEL_LIMITS.heads, heads) !== heads) {
    throw hf.unsupported('num_key_value_heads', `latent attention has as many as heads, ${heads}`)
  }
  const plainDim = hf.count('qk_nope_head_dim', MODEL_LIMITS.headDim)
  return {
    kind: 'latent',
    heads,
    queryRank: hf.raw('q_lora_rank') === undefined ? null : hf.count('q_lora_rank', MODEL_LIMITS.hiddenSize),
    latentRank: hf.count('kv_lora_rank', MODEL_LIMITS.hiddenSize),
    plainDim,
    valueDim: hf.count('v_head_dim', MODEL_LIMITS.headDim),
    scale: latentMagnitude ** 2 / Math.sqrt(plainDim + rope.dim),
  }
}

/** The groups of `topk_method` group_limited_greedy are as good as their best expert. */
function readSoftmaxRouter(experts: number, hf: HfConfig): RouterConfig {
  if ((hf.raw('scoring_func') ?? 'softmax') !== 'softmax') throw hf.unsupported('scoring_func', 'this architecture has softmax')
  if (hf.flag('norm_topk_prob', false)) throw hf.unsupported('norm_topk_prob', 'this architecture does not scale weights to sum to 1')
  const method = hf.raw('topk_method') ?? 'greedy'
  if (method !== 'greedy' && method !== 'group_limited_greedy') {
    throw hf.unsupported('topk_method', 'known are greedy and group_limited_greedy')
  }
  const groups = readGroups(hf, experts, 'best')
  return {
    scoring: 'softmax',
    bias: 'none',
    groups: method === 'greedy' ? null : groups,
    normalise: false,
    scale: hf.positive('routed_scaling_factor', 1),
  }
}

/** `kv_b_proj` holds for each head the rows that make its keys, then those that make its values. */
function deepseekLayerWeight(): ArchitectureAdapter['layerWeight'] {
  const named = namedLayerWeights({
    ...SHARED_EXPERTS,
    router_bias: 'mlp.gate.e_score_correction_bias',
    q_down: 'self_attn.q_a_proj.weight',
    q_down_norm: 'self_attn.q_a_layernorm.weight',
    q_up: 'self_attn.q_b_proj.weight',
    kv_down: 'self_attn.kv_a_proj_with_mqa.weight',
    kv_down_norm: 'self_attn.kv_a_layernorm.weight',
  })
  return (at, spec) => {
    const { attention } = at.config
    if (attention.kind !== 'latent' || (spec.name !== 'k_up' && spec.name !== 'v_up')) return named(at, spec)
    const { heads, plainDim, valueDim, latentRank } = attention
    const perHead = plainDim + valueDim
    const all = at.tensors.get(`model.layers.${at.layer}.self_attn.kv_b_proj.weight`, [heads * perHead, latentRank])
    const [first, count] = spec.name === 'k_up' ? [0, plainDim] : [plainDim, valueDim]
    return Array.from({ length: heads }, (_, head) => rowRange(all, head * perHead + first, count))
  }
}
