import { COMMON_TENSORS } from '../architectures/adapter.ts'
import { checkedTensors } from '../checkpoint-tensors.ts'
import type { CheckpointTensors } from '../checkpoint-tensors.ts'
import type { SourceTensor } from '../source-tensor.ts'
import type { GgufModel } from './split-files.ts'

/** The weights outside the layers, which are looked up by their Hugging Face names. */
const COMMON: Readonly<Record<string, string>> = Object.freeze({
  [COMMON_TENSORS.embed]: 'token_embd.weight',
  [COMMON_TENSORS.finalNorm]: 'output_norm.weight',
  [COMMON_TENSORS.lmHead]: 'output.weight',
})

/** A model's tensors by their names in GGUF files. */
export function ggufTensors({ path, files, tensors }: GgufModel): CheckpointTensors {
  return checkedTensors({ origin: path, files, find: (name) => asVector(tensors.get(COMMON[name] ?? name)) })
}

/** A gate of one row is a vector in most files, a matrix in others. */
function asVector(tensor: SourceTensor | undefined): SourceTensor | undefined {
  return tensor?.name.endsWith('.ffn_gate_inp_shexp.weight') ? { ...tensor, shape: [tensor.shape.at(-1)!] } : tensor
}
