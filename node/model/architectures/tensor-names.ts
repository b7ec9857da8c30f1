import { rowRange, sliceOf } from '../source-tensor.ts'
import type { SourceTensor } from '../source-tensor.ts'
import type { ArchitectureAdapter, ExpertPlace, LayerPlace } from './adapter.ts'

/** Tensors of a layer by our name, below `model.layers.<layer>.`, as most architectures call them. */
const LAYER_TENSORS: Readonly<Record<string, string>> = Object.freeze({
  attn_norm: 'input_layernorm.weight',
  q: 'self_attn.q_proj.weight',
  k: 'self_attn.k_proj.weight',
  v: 'self_attn.v_proj.weight',
  o: 'self_attn.o_proj.weight',
  q_bias: 'self_attn.q_proj.bias',
  k_bias: 'self_attn.k_proj.bias',
  v_bias: 'self_attn.v_proj.bias',
  o_bias: 'self_attn.o_proj.bias',
  q_norm: 'self_attn.q_norm.weight',
  k_norm: 'self_attn.k_norm.weight',
  ffn_norm: 'post_attention_layernorm.weight',
  router: 'mlp.gate.weight',
  dense_gate: 'mlp.gate_proj.weight',
  dense_up: 'mlp.up_proj.weight',
  dense_down: 'mlp.down_proj.weight',
})

/** Shared experts as DeepSeek and GLM call them. */
export const SHARED_EXPERTS = Object.freeze({
  shared_gate: 'mlp.shared_experts.gate_proj.weight',
  shared_up: 'mlp.shared_experts.up_proj.weight',
  shared_down: 'mlp.shared_experts.down_proj.weight',
})

/** Looks each weight of a layer up under its usual name, or under the one in `others`. */
export function namedLayerWeights(others: Readonly<Record<string, string>> = {}): ArchitectureAdapter['layerWeight'] {
  const names = { ...LAYER_TENSORS, ...others }
  return ({ tensors, layer }, { name, shape }) => {
    const tensor = names[name]
    if (tensor === undefined) throw new TypeError(`no tensor is known for ${name}`)
    return [tensors.get(`model.layers.${layer}.${tensor}`, shape)]
  }
}

/** Where transformers 5 keeps all experts of a layer when it is told to save them as it holds them. */
const FUSED_EXPERTS = 'mlp.experts'

/**
 * Experts with three matrices of their own, by default `mlp.experts.<expert>.{gate,up,down}_proj`, or all of a layer in two tensors:
 * `mlp.experts.gate_up_proj` [experts, 2 × size, hidden], the gate's rows first, and `mlp.experts.down_proj` [experts, hidden, size].
 */
export function routedExperts(
  folder = 'mlp.experts',
  names: Readonly<Record<string, string>> = { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' },
): ArchitectureAdapter['expertWeight'] {
  return (at, { name, shape }) => {
    const { tensors, layer, expert } = at
    const tensor = names[name]
    if (tensor === undefined) throw new TypeError(`no tensor is known for ${name}`)
    if (hasFusedExperts(at)) return fusedExpertWeight(at, name)
    return tensors.get(`model.layers.${layer}.${folder}.${expert}.${tensor}.weight`, shape)
  }
}

/** Whether the layer's experts are kept as transformers 5 holds them. */
export function hasFusedExperts({ tensors, layer }: LayerPlace): boolean {
  const prefix = `model.layers.${layer}.${FUSED_EXPERTS}`
  return tensors.has(`${prefix}.gate_up_proj`) || tensors.has(`${prefix}.down_proj`)
}

function fusedExpertWeight({ tensors, config, layer, expert }: ExpertPlace, name: string): SourceTensor {
  const { experts, expertSize, hiddenSize } = config
  const prefix = `model.layers.${layer}.${FUSED_EXPERTS}`
  if (name === 'down') return sliceOf(tensors.get(`${prefix}.down_proj`, [experts, hiddenSize, expertSize]), expert)
  const both = sliceOf(tensors.get(`${prefix}.gate_up_proj`, [experts, 2 * expertSize, hiddenSize]), expert)
  return rowRange(both, name === 'gate' ? 0 : expertSize, expertSize)
}
