import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { ModelError } from '../errors.ts'
import type { ArchitectureAdapter } from './architectures/adapter.ts'
import { findArchitecture } from './architectures/index.ts'
import { refuseUnreadOptions } from './architectures/unread-options.ts'
import { openCheckpointTensors } from './checkpoint-tensors.ts'
import type { CheckpointTensors } from './checkpoint-tensors.ts'
import { parseJsonObject, readJsonObject, readSmallFile } from './files.ts'
import { HfConfig } from './hf-config.ts'
import type { Manifest, ModelConfig } from './manifest.ts'
import { MODEL_LIMITS } from './model-limits.ts'
import { TOKENIZER_FILES } from './tokenizer-files.ts'

const MAX_CONFIG_BYTES = 4 * 2 ** 20

/** A Hugging Face checkpoint directory, read and checked but for the weights themselves. */
export interface Checkpoint {
  readonly dir: string
  readonly adapter: ArchitectureAdapter
  readonly config: ModelConfig
  readonly tensors: CheckpointTensors
  readonly tiedEmbeddings: boolean
  readonly generation: Manifest['generation']
  /** Files of the tokenizer that are there. */
  readonly tokenizer: readonly { readonly name: string; readonly content: Uint8Array }[]
}

/** Opens a checkpoint. Throws `ModelError` naming file, field or tensor and the remedy. */
export async function openCheckpoint(dir: string): Promise<Checkpoint> {
  const isDirectory = await stat(dir).then(
    (stats) => stats.isDirectory(),
    () => false,
  )
  if (!isDirectory) throw new ModelError(`${dir} is no directory: name the folder of a Hugging Face checkpoint`)
  const configPath = join(dir, 'config.json')
  const fields = await readJsonObject(configPath, MAX_CONFIG_BYTES)
  if (fields === undefined) throw new ModelError(`${configPath} is missing: ${dir} is not a Hugging Face checkpoint, or not a complete one`)
  const hf = new HfConfig(fields, configPath)
  const adapter = findArchitecture(hf.raw('architectures'), configPath)
  const generationPath = join(dir, 'generation_config.json')
  const generation = (await readJsonObject(generationPath, MAX_CONFIG_BYTES)) ?? {}
  const config = adapter.readConfig(hf, readEndTokens(fields, generation, configPath))
  refuseUnreadOptions(hf)
  const stray = config.eosTokenIds.find((id) => id >= config.vocabSize)
  if (stray !== undefined)
    throw new ModelError(
      `${configPath}: eos_token_id ${stray}, here or in generation_config.json, is outside the vocabulary of ${config.vocabSize}`,
    )
  return {
    dir,
    adapter,
    config,
    tiedEmbeddings: hf.flag('tie_word_embeddings', false),
    generation: readGeneration(generation, generationPath),
    tokenizer: await readTokenizerFiles(dir),
    tensors: await openCheckpointTensors(dir),
  }
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

async function readTokenizerFiles(dir: string): Promise<{ name: string; content: Uint8Array }[]> {
  const files = []
  for (const name of TOKENIZER_FILES) {
    const path = join(dir, name)
    const content = await readSmallFile(path, MODEL_LIMITS.tokenizerFileBytes)
    if (content === undefined) continue
    if (name.endsWith('.json')) parseJsonObject(content.toString('utf8'), path)
    files.push({ name, content })
  }
  return files
}
