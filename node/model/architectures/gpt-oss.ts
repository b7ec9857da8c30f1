import { MODEL_LIMITS } from '../model-limits.ts'
import { everyRow, sliceOf, transposed } from '../source-tensor.ts'
import type { SourceTensor } from '../source-tensor.ts'
import { SIZE_FIELDS } from './adapter.ts'
import type { ArchitectureAdapter, ExpertPlace } from './adapter.ts'
import { readCommonConfig, readExpertsPerToken, readGroupedAttention, readSliding } from './common-config.ts'
import { readRope } from './rope.ts'
import { namedLayerWeights } from './tensor-names.ts'

/** gpt-oss: biases everywhere, sinks in the softmax of attention, a window in every other layer, a clamped SwiGLU. */
export const gptOss: ArchitectureAdapter = {
  architecture: 'GptOssForCausalLM',
  sizeFields: { ...SIZE_FIELDS, experts: 'num_local_experts', expertSize: 'intermediate_size' },
  readConfig: (hf, eosTokenIds) => {
    const common = readCommonConfig(hf, { normEpsilon: 1e-5 })
    const attention = readGroupedAttention(hf, { bias: hf.flag('attention_bias', true) ? 'qkvo' : 'none', sinks: true })
    const { rope, maxContext } = readRope(hf, { theta: 150_000, size: attention.headDim })
    const experts = hf.count('num_local_experts', MODEL_LIMITS.experts)
    return {
      ...common,
      architecture: 'GptOssForCausalLM',
      attention,
      rope,
      maxContext,
      sliding: readSliding(hf, { layers: common.layers, maxContext }, { on: true, isSliding: (layer) => layer % 2 === 0 }),
      experts,
      expertsPerToken: readExpertsPerToken(hf, experts),
      expertSize: hf.count('intermediate_size', MODEL_LIMITS.expertSize),
      expertActivation: {
        kind: 'clamped-swiglu',
        alpha: hf.positive('swiglu_alpha', 1.702),
        limit: hf.positive('swiglu_limit', 7),
      },
      expertBias: true,
      // The softmax is taken over the chosen experts only, which equals renormalising.
      router: { scoring: 'softmax', bias: 'logits', groups: null, normalise: true, scale: 1 },
      eosTokenIds,
    }
  },
  layerWeight: namedLayerWeights({ sinks: 'self_attn.sinks', router: 'mlp.router.weight', router_bias: 'mlp.router.bias' }),
  expertWeight: (at, { name }) => {
    const { hiddenSize, expertSize } = at.config
    switch (name) {
      case 'gate':
        return everyRow(projection(at, 'gate_up_proj', 2 * expertSize, hiddenSize), 0, 2)
      case 'up':
        return everyRow(projection(at, 'gate_up_proj', 2 * expertSize, hiddenSize), 1, 2)
      case 'down':
        return projection(at, 'down_proj', hiddenSize, expertSize)
      case 'gate_bias':
        return everyRow(bias(at, 'gate_up_proj_bias', 2 * expertSize), 0, 2)
      case 'up_bias':
        return everyRow(bias(at, 'gate_up_proj_bias', 2 * expertSize), 1, 2)
      case 'down_bias':
        return bias(at, 'down_proj_bias', hiddenSize)
      default:
        throw new TypeError(`no tensor is known for ${name}`)
    }
  },
}

/** One expert's part of all experts' matrices, as [outputs, inputs]: MXFP4 is stored so, anything else the other way round. */
function projection(at: ExpertPlace, suffix: string, outputs: number, inputs: number): SourceTensor {
  const { tensors, config, expert } = at
  const name = tensorName(at, suffix)
  if (tensors.typeOf(name) === 'MXFP4') return sliceOf(tensors.get(name, [config.experts, outputs, inputs]), expert)
  return transposed(sliceOf(tensors.get(name, [config.experts, inputs, outputs]), expert))
}

function bias(at: ExpertPlace, suffix: string, size: number): SourceTensor {
  return sliceOf(at.tensors.get(tensorName(at, suffix), [at.config.experts, size]), at.expert)
}

function tensorName({ layer }: ExpertPlace, suffix: string): string {
  return `model.layers.${layer}.mlp.experts.${suffix}`
}
