import { basename, join } from 'node:path'
import { ModelError } from '../errors.ts'
import { readJsonObject } from './files.ts'
import { openSafetensors } from './safetensors.ts'
import type { SafetensorsFile, SourceTensor } from './safetensors.ts'

export const LIMITS = Object.freeze({ indexBytes: 64 * 2 ** 20, files: 4096 })

const SINGLE_FILE = 'model.safetensors'
const INDEX_FILE = 'model.safetensors.index.json'

/** All tensors of a checkpoint, whether in one file or many. */
export interface CheckpointTensors {
  has(name: string): boolean
  /** Throws `ModelError` when the tensor is missing, has another shape, or has a type that is not read. */
  get(name: string, shape: readonly number[]): SourceTensor
  close(): Promise<void>
}

/** Opens `model.safetensors`, or the files named by `model.safetensors.index.json`. Throws `ModelError`. */
export async function openCheckpointTensors(dir: string): Promise<CheckpointTensors> {
  const index = await readJsonObject(join(dir, INDEX_FILE), LIMITS.indexBytes)
  const names = index === undefined ? [SINGLE_FILE] : shardNames(index, join(dir, INDEX_FILE))
  const files: SafetensorsFile[] = []
  const closeAll = async (): Promise<void> => {
    await Promise.all(files.map((file) => file.close()))
  }
  try {
    const fileOf = new Map<string, SafetensorsFile>()
    for (const name of names) {
      const file = await openSafetensors(join(dir, name))
      files.push(file)
      for (const tensor of file.names) {
        const other = fileOf.get(tensor)
        if (other !== undefined)
          throw new ModelError(`tensor ${tensor} is in both ${other.path} and ${file.path}: get the checkpoint again`)
        fileOf.set(tensor, file)
      }
    }
    return {
      has: (name) => fileOf.has(name),
      get: (name, shape) => {
        const tensor = fileOf.get(name)?.tensor(name)
        if (tensor === undefined) {
          throw new ModelError(
            `${dir}: tensor ${name} is missing from the checkpoint: a file is missing, or config.json belongs to another model`,
          )
        }
        if (tensor.shape.length !== shape.length || tensor.shape.some((n, i) => n !== shape[i])) {
          throw new ModelError(
            `${tensor.file}: tensor ${name} has shape [${tensor.shape.join(', ')}] and config.json asks for [${shape.join(', ')}]: they belong to different models`,
          )
        }
        return tensor
      },
      close: closeAll,
    }
  } catch (error) {
    await closeAll()
    throw error
  }
}

function shardNames(index: Record<string, unknown>, path: string): string[] {
  const map = index['weight_map']
  if (typeof map !== 'object' || map === null) throw new ModelError(`${path} has no weight_map: get the file again`)
  const names = new Set<unknown>(Object.values(map))
  if (names.size === 0 || names.size > LIMITS.files)
    throw new ModelError(`${path} names ${names.size} files; expected 1 to ${LIMITS.files}`)
  for (const name of names) {
    if (typeof name !== 'string' || basename(name) !== name || !name.endsWith('.safetensors')) {
      throw new ModelError(`${path} names ${JSON.stringify(name)}, which is no safetensors file of the same folder: get the file again`)
    }
  }
  return [...names] as string[]
}
