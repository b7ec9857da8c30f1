import type { ArchitectureAdapter, ExpertPlace, LayerPlace } from '../architectures/adapter.ts'
import { rowRange, sliceOf, transposed, unpaired } from '../source-tensor.ts'
import type { SourceTensor } from '../source-tensor.ts'
import type { WeightSpec } from '../weight-specs.ts'
import type { GgufConfig } from './architectures.ts'

/** Tensors of a layer by our name, below `blk.<layer>.` (gguf-py's constants.py). */
const LAYER_TENSORS: Readonly<Record<string, string>> = Object.freeze({
  attn_norm: 'attn_norm.weight',
  q: 'attn_q.weight',
  k: 'attn_k.weight',
  v: 'attn_v.weight',
  o: 'attn_output.weight',
  q_bias: 'attn_q.bias',
  k_bias: 'attn_k.bias',
  v_bias: 'attn_v.bias',
  o_bias: 'attn_output.bias',
  q_norm: 'attn_q_norm.weight',
  k_norm: 'attn_k_norm.weight',
  sinks: 'attn_sinks.weight',
  q_down: 'attn_q_a.weight',
  q_down_norm: 'attn_q_a_norm.weight',
  q_up: 'attn_q_b.weight',
  kv_down: 'attn_kv_a_mqa.weight',
  kv_down_norm: 'attn_kv_a_norm.weight',
  ffn_norm: 'ffn_norm.weight',
  router: 'ffn_gate_inp.weight',
  router_bias: 'ffn_gate_inp.bias',
  dense_gate: 'ffn_gate.weight',
  dense_up: 'ffn_up.weight',
  dense_down: 'ffn_down.weight',
  shared_gate: 'ffn_gate_shexp.weight',
  shared_up: 'ffn_up_shexp.weight',
  shared_down: 'ffn_down_shexp.weight',
  shared_scale: 'ffn_gate_inp_shexp.weight',
})

/** Where the weights of an architecture lie in a GGUF file, whatever Hugging Face's checkpoint calls them. */
export function ggufWeights({ pairedHead, names }: GgufConfig): Pick<ArchitectureAdapter, 'layerWeight' | 'expertWeight'> {
  const layerNames = { ...LAYER_TENSORS, ...names }
  return {
    layerWeight: (at, spec) => {
      if (spec.name === 'k_up' || spec.name === 'v_up') return latentWeight(at, spec)
      const name = layerNames[spec.name]
      if (name === undefined) throw new TypeError(`no tensor is known for ${spec.name}`)
      const path = `blk.${at.layer}.${name}`
      if (spec.name === 'shared_scale') return [{ ...at.tensors.get(path, spec.shape.slice(1)), shape: spec.shape }]
      const tensor = at.tensors.get(path, spec.shape)
      return [pairedHead !== undefined && (spec.name === 'q' || spec.name === 'k') ? unpaired(tensor, pairedHead) : tensor]
    },
    expertWeight,
  }
}

/** All experts of a layer in one tensor; conversions of early 2024 hold each by itself: blk.0.ffn_gate.3.weight. */
function expertWeight({ tensors, config, layer, expert }: ExpertPlace, { name, shape }: WeightSpec): SourceTensor {
  const [part, kind = 'weight'] = name.split('_')
  const all = `blk.${layer}.ffn_${part}_exps.${kind}`
  const own = `blk.${layer}.ffn_${part}.${expert}.${kind}`
  if (!tensors.has(all) && tensors.has(own)) return tensors.get(own, shape)
  return sliceOf(tensors.get(all, [config.experts, ...shape]), expert)
}

/** `attn_k_b` (each head transposed) and `attn_v_b`; older files have Hugging Face's `attn_kv_b`, a head's keys before its values. */
function latentWeight({ tensors, config, layer }: LayerPlace, { name }: WeightSpec): SourceTensor[] {
  const { attention } = config
  if (attention.kind !== 'latent') throw new TypeError(`${name} belongs to latent attention`)
  const { heads, plainDim, valueDim, latentRank } = attention
  const prefix = `blk.${layer}.attn_`
  const ofHeads = (of: (head: number) => SourceTensor): SourceTensor[] => Array.from({ length: heads }, (_, head) => of(head))
  if (tensors.has(`${prefix}kv_b.weight`)) {
    const perHead = plainDim + valueDim
    const all = tensors.get(`${prefix}kv_b.weight`, [heads * perHead, latentRank])
    const [first, count] = name === 'k_up' ? [0, plainDim] : [plainDim, valueDim]
    return ofHeads((head) => rowRange(all, head * perHead + first, count))
  }
  if (name === 'v_up') return [tensors.get(`${prefix}v_b.weight`, [heads, valueDim, latentRank])]
  const keys = tensors.get(`${prefix}k_b.weight`, [heads, latentRank, plainDim])
  return ofHeads((head) => transposed(sliceOf(keys, head)))
}
