import type { HfConfig } from '../hf-config.ts'

/** Ways of storing a checkpoint's weights that are read here, by their `quant_method`; the tensors themselves say the rest. */
const READ_METHODS: readonly unknown[] = ['fp8', 'mxfp4']

/** Refuses a checkpoint whose `quantization_config` names a way of storing weights that is not read. */
export function checkQuantisation(hf: HfConfig): void {
  if (hf.raw('quantization_config') === undefined) return
  if (READ_METHODS.includes(hf.group('quantization_config').raw('quant_method'))) return
  throw hf.unsupported('quantization_config', `only ${READ_METHODS.join(' and ')} are read: get the checkpoint in BF16, F16 or F32`)
}
