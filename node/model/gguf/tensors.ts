import { checkedTensors } from '../checkpoint-tensors.ts'
import type { CheckpointTensors } from '../checkpoint-tensors.ts'
import { sliceOf, unpaired } from '../source-tensor.ts'
import type { SourceTensor } from '../source-tensor.ts'
import { ggufName } from './tensor-names.ts'

const Q_OR_K = /\.attn_[qk]\.weight$/

export interface GgufTensorsInit {
  readonly path: string
  readonly files: readonly string[]
  readonly tensors: ReadonlyMap<string, SourceTensor>
  /** Size of a head where rows of q and k are stored in pairs. */
  readonly pairedHead: number | undefined
}

/** A GGUF file's weights under their Hugging Face names, and as Hugging Face orders them. */
export function ggufTensors({ path, files, tensors, pairedHead }: GgufTensorsInit): CheckpointTensors {
  const find = (hfName: string): SourceTensor | undefined => {
    const place = ggufName(hfName)
    if (place === undefined) return undefined
    const { name, expert } = place
    const tensor = tensors.get(name)
    if (expert !== undefined) {
      // Conversions of early 2024 hold each expert by itself: blk.0.ffn_gate.3.weight.
      if (tensor === undefined) return tensors.get(name.replace('_exps.', `.${expert}.`))
      return expert < tensor.shape[0]! ? sliceOf(tensor, expert) : undefined
    }
    if (tensor === undefined) return undefined
    return pairedHead !== undefined && Q_OR_K.test(name) ? unpaired(tensor, pairedHead) : asMatrix(tensor, hfName)
  }
  return checkedTensors({ origin: path, files, find })
}

/** A gate of one row is a vector in GGUF files. */
function asMatrix(tensor: SourceTensor, hfName: string): SourceTensor {
  return hfName.endsWith('.shared_expert_gate.weight') && tensor.shape.length === 1 ? { ...tensor, shape: [1, tensor.shape[0]!] } : tensor
}
