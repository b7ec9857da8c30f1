import { ModelError } from '../../errors.ts'
import type { ArchitectureAdapter } from './adapter.ts'
import { deepseekV2, deepseekV3 } from './deepseek.ts'
import { glm4Moe } from './glm4-moe.ts'
import { gptOss } from './gpt-oss.ts'
import { graniteMoe } from './granite-moe.ts'
import { mixtral } from './mixtral.ts'
import { olmoe } from './olmoe.ts'
import { qwen2Moe } from './qwen2-moe.ts'
import { qwen3Moe } from './qwen3-moe.ts'

const ADAPTERS: readonly ArchitectureAdapter[] = [qwen3Moe, olmoe, mixtral, qwen2Moe, gptOss, deepseekV2, deepseekV3, graniteMoe, glm4Moe]

/** The adapter for the `architectures` field of a config.json. Throws `ModelError` listing the known ones. */
export function findArchitecture(names: unknown, path: string): ArchitectureAdapter {
  const adapter = ADAPTERS.find(({ architecture }) => Array.isArray(names) && names.includes(architecture))
  if (adapter === undefined) {
    const known = ADAPTERS.map(({ architecture }) => architecture).join(', ')
    throw new ModelError(`${path}: architecture ${JSON.stringify(names)?.slice(0, 200) ?? '(none)'} is not supported; known: ${known}`)
  }
  return adapter
}
