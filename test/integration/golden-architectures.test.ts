/** The other architectures against Hugging Face transformers. */
import type { CheckpointName } from '../helpers/packed-model.ts'
import { goldenSuite } from './golden-suite.ts'
import { precisionSuite } from './precision-suite.ts'

const NAMES: readonly CheckpointName[] = [
  'random-qwen2moe',
  'random-gptoss',
  'random-gptoss-mxfp4',
  'random-deepseek2',
  'random-deepseek2-lite',
  'random-deepseek3',
  'random-deepseek3-fp8',
  'random-granitemoe',
  'random-glm4moe',
]

for (const name of NAMES) goldenSuite(name)

/** Each about twice the worst that was measured (AVX-512 VNNI and AMX), of untrained models. */
precisionSuite(NAMES, [
  { quant: { kind: 'f16', block: 0 }, rms: 2e-3, missed: 0 },
  { quant: { kind: 'q8', block: 32 }, rms: 0.17, missed: 0.15 },
  { quant: { kind: 'q4', block: 32 }, rms: 0.7, missed: 0.5 },
])
