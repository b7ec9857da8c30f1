import { basename, join } from 'node:path'
import { ModelError } from '../errors.ts'
import type { SourceType } from './dtypes/index.ts'
import { readJsonObject } from './files.ts'
import { plainTensor, readSafetensorsHeader } from './safetensors.ts'
import type { StoredTensor } from './safetensors.ts'
import { scaledBy, scaledTensor } from './scaled-tensor.ts'
import type { SourceTensor } from './source-tensor.ts'

export const LIMITS = Object.freeze({ indexBytes: 64 * 2 ** 20, files: 4096 })

export const SINGLE_FILE = 'model.safetensors'
export const INDEX_FILE = 'model.safetensors.index.json'

/** All tensors of a checkpoint, whether in one file or many. */
export interface CheckpointTensors {
  /** Files that hold them. */
  readonly files: readonly string[]
  has(name: string): boolean
  /** How the tensor's numbers are coded; undefined when there is no such tensor. Throws `ModelError` for a type that is not read. */
  typeOf(name: string): SourceType | undefined
  /**
   * Throws `ModelError` when the tensor is missing, has another shape, or has a type that is not read.
   * `fields`: those of the configuration that the shape follows from, for the complaint.
   */
  get(name: string, shape: readonly number[], fields?: readonly string[]): SourceTensor
  /** Tensors that nobody has got so far. */
  unused(): readonly string[]
}

/** Reads the headers of `model.safetensors`, or of the files named by `model.safetensors.index.json`. Throws `ModelError`. */
export async function openCheckpointTensors(dir: string): Promise<CheckpointTensors> {
  const index = await readJsonObject(join(dir, INDEX_FILE), LIMITS.indexBytes)
  const names = index === undefined ? [SINGLE_FILE] : indexedFiles(index, join(dir, INDEX_FILE))
  const stored = new Map<string, StoredTensor>()
  for (const name of names) {
    const { tensors } = await readSafetensorsHeader(join(dir, name))
    for (const tensor of tensors.values()) {
      const other = stored.get(tensor.name)
      if (other !== undefined) {
        throw new ModelError(`tensor ${tensor.name} is in both ${other.file} and ${tensor.file}: get the checkpoint again`)
      }
      stored.set(tensor.name, tensor)
    }
  }
  return checkedTensors({
    origin: dir,
    files: names.map((name) => join(dir, name)),
    names: [...stored.keys()],
    find: (name) => {
      const tensor = stored.get(name)
      return scaledTensor(stored, name) ?? (tensor === undefined ? undefined : plainTensor(tensor))
    },
  })
}

export interface TensorSource {
  /** What a complaint about a missing tensor names. */
  readonly origin: string
  readonly files: readonly string[]
  /** All tensors, where the format keeps them as a checkpoint does. */
  readonly names?: readonly string[]
  /** Throws `ModelError` when the tensor can't be read. */
  readonly find: (name: string) => SourceTensor | undefined
}

/** Tensors of any file format, compared with the shapes that the configuration asks for. */
export function checkedTensors({ origin, files, names = [], find }: TensorSource): CheckpointTensors {
  const used = new Set<string>()
  return {
    files,
    has: (name) => find(name) !== undefined,
    typeOf: (name) => find(name)?.dtype,
    unused: () => names.filter((name) => !used.has(name) && !used.has(scaledBy(name) ?? name)),
    get: (name, shape, fields = []) => {
      used.add(name)
      const tensor = find(name)
      if (tensor === undefined) {
        throw new ModelError(
          `${origin}: tensor ${name} is missing from the checkpoint: a file is missing, or its configuration belongs to another model`,
        )
      }
      if (tensor.shape.length !== shape.length || tensor.shape.some((n, i) => n !== shape[i])) {
        throw new ModelError(
          `${tensor.file}: tensor ${name} has shape [${tensor.shape.join(', ')}] and the configuration${fields.length > 0 ? ` (${fields.join(', ')})` : ''} asks for [${shape.join(', ')}]: they belong to different models, get both again`,
        )
      }
      return tensor
    },
  }
}

/** Files that an index names, each once. Throws `ModelError` naming `path` when it is malformed. */
export function indexedFiles(index: Record<string, unknown>, path: string): string[] {
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
