import { join } from 'node:path'
import { ModelError } from '../errors.ts'
import type { ArchitectureAdapter } from './architectures/adapter.ts'
import { findArchitecture } from './architectures/index.ts'
import { refuseUnreadOptions } from './architectures/unread-options.ts'
import { folderNames, openFolder } from './checkpoint-folder.ts'
import type { CheckpointSource, TokenizerContent } from './checkpoint-folder.ts'
import type { CheckpointTensors } from './checkpoint-tensors.ts'
import { openGguf } from './gguf/checkpoint.ts'
import { splitNames } from './gguf/split-files.ts'
import { HfConfig } from './hf-config.ts'
import type { Manifest, ModelConfig } from './manifest.ts'
import { MODEL_LIMITS } from './model-limits.ts'

const GGUF = /\.gguf$/i

/** A checkpoint, read and checked but for the weights themselves. */
export interface Checkpoint {
  readonly adapter: ArchitectureAdapter
  readonly config: ModelConfig
  readonly tensors: CheckpointTensors
  readonly tiedEmbeddings: boolean
  readonly generation: Manifest['generation']
  /** Files of the tokenizer that are there. */
  readonly tokenizer: readonly TokenizerContent[]
}

/** Opens a Hugging Face folder or a GGUF file. Throws `ModelError` naming file, field or tensor and the remedy. */
export async function openCheckpoint(path: string): Promise<Checkpoint> {
  const { configPath, fields, generationPath, generation, tokenizer, openTensors, weights } = await openSource(path)
  const hf = new HfConfig(fields, configPath)
  const adapter = findArchitecture(hf.raw('architectures'), configPath)
  const config = adapter.readConfig(hf, readEndTokens(fields, generation, configPath))
  refuseUnreadOptions(hf)
  const stray = config.eosTokenIds.find((id) => id >= config.vocabSize)
  if (stray !== undefined)
    throw new ModelError(
      `${configPath}: eos_token_id ${stray}, here or in generation_config.json, is outside the vocabulary of ${config.vocabSize}`,
    )
  return {
    adapter: { ...adapter, ...weights },
    config,
    tiedEmbeddings: hf.flag('tie_word_embeddings', false),
    generation: readGeneration(generation, generationPath),
    tokenizer,
    tensors: await openTensors(),
  }
}

/** A folder without config.json may hold the GGUF file of one model. */
async function openSource(path: string): Promise<CheckpointSource> {
  if (GGUF.test(path)) return await openGguf(path)
  const names = await folderNames(path)
  const folder = await openFolder(path)
  if (folder !== undefined) return folder
  const models = new Set(names.filter((name) => GGUF.test(name)).map((name) => splitNames(name)[0]!))
  const [only, another] = models
  if (only === undefined) {
    throw new ModelError(`${join(path, 'config.json')} is missing: ${path} is not a Hugging Face checkpoint, or not a complete one`)
  }
  if (another !== undefined) throw new ModelError(`${path} holds several models (${[...models].join(', ')}): name the file of one`)
  return await openGguf(join(path, only))
}

/** End tokens of both files: generation_config.json often names more than config.json. */
function readEndTokens(config: Record<string, unknown>, generation: Record<string, unknown>, path: string): number[] {
  const ids = [generation['eos_token_id'], config['eos_token_id']].flat().filter((id) => id !== null && id !== undefined)
  if (ids.length > MODEL_LIMITS.eosTokenIds || !ids.every((id) => Number.isSafeInteger(id) && (id as number) >= 0)) {
    throw new ModelError(`${path}: eos_token_id is malformed, here or in generation_config.json; expected a token id or a list of them`)
  }
  return [...new Set(ids as number[])]
}

function readGeneration(fields: Record<string, unknown>, path: string): Manifest['generation'] {
  const number = (field: string, isValid: (value: number) => boolean): number | undefined => {
    const value = fields[field]
    if (value === undefined || value === null) return undefined
    if (typeof value !== 'number' || !isValid(value))
      throw new ModelError(`${path}: ${field} is ${JSON.stringify(value)}; correct or remove it`)
    return value
  }
  const temperature = number('temperature', (value) => value >= 0 && value <= 100)
  const topK = number('top_k', (value) => Number.isSafeInteger(value) && value >= 0)
  const topP = number('top_p', (value) => value > 0 && value <= 1)
  return {
    ...(temperature === undefined ? {} : { temperature }),
    ...(topK === undefined ? {} : { topK }),
    ...(topP === undefined ? {} : { topP }),
  }
}
