import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { ModelError } from '../errors.ts'
import type { ArchitectureAdapter } from './architectures/adapter.ts'
import { openCheckpointTensors } from './checkpoint-tensors.ts'
import type { CheckpointTensors } from './checkpoint-tensors.ts'
import { errorCode, parseJsonObject, readJsonObject, readSmallFile } from './files.ts'
import { MODEL_LIMITS } from './model-limits.ts'
import { TOKENIZER_FILES } from './tokenizer-files.ts'

const MAX_CONFIG_BYTES = 4 * 2 ** 20

/** A checkpoint in whatever file format, as Hugging Face would have it; nothing is checked yet but the files' form. */
export interface CheckpointSource {
  /** File that the fields are from, for messages. */
  readonly configPath: string
  /** As in config.json. */
  readonly fields: Record<string, unknown>
  readonly generationPath: string
  /** As in generation_config.json. */
  readonly generation: Record<string, unknown>
  readonly tokenizer: readonly TokenizerContent[]
  readonly openTensors: () => Promise<CheckpointTensors>
  /** Where weights lie, if not where the architecture has them in Hugging Face's checkpoints. */
  readonly weights?: Pick<ArchitectureAdapter, 'layerWeight' | 'expertWeight'>
}

/** One of {@link TOKENIZER_FILES}. */
export interface TokenizerContent {
  readonly name: string
  readonly content: Uint8Array
}

/** Opens a Hugging Face folder; undefined when it has no config.json. Throws `ModelError`. */
export async function openFolder(dir: string): Promise<CheckpointSource | undefined> {
  const configPath = join(dir, 'config.json')
  const fields = await readJsonObject(configPath, MAX_CONFIG_BYTES)
  if (fields === undefined) return undefined
  const generationPath = join(dir, 'generation_config.json')
  return {
    configPath,
    fields,
    generationPath,
    generation: (await readJsonObject(generationPath, MAX_CONFIG_BYTES)) ?? {},
    tokenizer: await readTokenizerFiles(dir),
    openTensors: () => openCheckpointTensors(dir),
  }
}

/** Files of the tokenizer that are in a folder. Throws `ModelError` when one is no JSON or too large. */
export async function readTokenizerFiles(dir: string): Promise<TokenizerContent[]> {
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

/** Names of the files in a folder. Throws `ModelError` when it is none. */
export async function folderNames(dir: string): Promise<string[]> {
  try {
    return await readdir(dir)
  } catch (error) {
    const reason =
      errorCode(error) === 'ENOENT' || errorCode(error) === 'ENOTDIR' ? 'is no directory' : `can't be read (${(error as Error).message})`
    throw new ModelError(`${dir} ${reason}: name the folder of a Hugging Face checkpoint, or a GGUF file`, { cause: error })
  }
}
