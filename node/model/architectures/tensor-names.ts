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

/** All experts of a layer in two tensors, [experts, 2 × size, hidden] with the gate's rows first and [experts, hidden, size]. */
export interface FusedNames {
  /** Below `model.layers.<layer>.` */
  readonly gateUp: string
  readonly down: string
}

/** As transformers 5 holds them, and saves them when told not to go back to the published layout. */
const HELD_EXPERTS: FusedNames = Object.freeze({ gateUp: 'mlp.experts.gate_up_proj', down: 'mlp.experts.down_proj' })

/** Experts with three matrices of their own, by default `mlp.experts.<expert>.{gate,up,down}_proj`, or fused as transformers 5 holds them. */
export function routedExperts(
  folder = 'mlp.experts',
  names: Readonly<Record<string, string>> = { gate: 'gate_proj', up: 'up_proj', down: 'down_proj' },
): ArchitectureAdapter['expertWeight'] {
  return (at, { name, shape }) => {
    const { tensors, layer, expert } = at
    const tensor = names[name]
    if (tensor === undefined) throw new TypeError(`no tensor is known for ${name}`)
    if (hasFusedExperts(at, HELD_EXPERTS)) return fusedExpert(at, name, HELD_EXPERTS)
    return tensors.get(`model.layers.${layer}.${folder}.${expert}.${tensor}.weight`, shape)
  }
}

/** Whether one of these is among the layer's tensors. */
export function hasFusedExperts({ tensors, layer }: LayerPlace, { gateUp, down }: FusedNames = HELD_EXPERTS): boolean {
  return tensors.has(`model.layers.${layer}.${gateUp}`) || tensors.has(`model.layers.${layer}.${down}`)
}

/** An expert's `gate`, `up` or `down` out of fused tensors. Throws like `expertWeight`. */
export function fusedExpert({ tensors, config, layer, expert }: ExpertPlace, name: string, { gateUp, down }: FusedNames): SourceTensor {
  const { experts, expertSize, hiddenSize } = config
  if (name === 'down') return sliceOf(tensors.get(`model.layers.${layer}.${down}`, [experts, hiddenSize, expertSize]), expert)
  const both = sliceOf(tensors.get(`model.layers.${layer}.${gateUp}`, [experts, 2 * expertSize, hiddenSize]), expert)
  return rowRange(both, name === 'gate' ? 0 : expertSize, expertSize)
}
