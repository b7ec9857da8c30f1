import { basename, dirname, join } from 'node:path'
import { ModelError } from '../../errors.ts'
import { readGgufHeader } from './header.ts'
import type { GgufFile } from './header.ts'
import type { SourceTensor } from '../source-tensor.ts'

/** `model-00002-of-00003.gguf`: the second of three files of one model. */
const SPLIT = /^(.+)-(\d{5})-of-(\d{5})\.gguf$/
const MAX_FILES = 1_000

/** A model's GGUF files as one. */
export interface GgufModel extends GgufFile {
  readonly files: readonly string[]
}

/** Names of all files of the model that one file belongs to, in order; just itself for most. */
export function splitNames(name: string): string[] {
  const [, stem, , total] = SPLIT.exec(name) ?? []
  const count = Number(total)
  if (stem === undefined || count < 1 || count > MAX_FILES) return [name]
  return Array.from({ length: count }, (_, i) => `${stem}-${String(i + 1).padStart(5, '0')}-of-${total}.gguf`)
}

/** Reads the headers of a model's files, given any of them; the metadata is the first one's. Throws `ModelError`. */
export async function openGgufFiles(path: string): Promise<GgufModel> {
  const files = splitNames(basename(path)).map((name) => join(dirname(path), name))
  const tensors = new Map<string, SourceTensor>()
  let first: GgufFile | undefined
  for (const file of files) {
    const header = await readGgufHeader(file)
    first ??= header
    for (const [name, tensor] of header.tensors) {
      const other = tensors.get(name)
      if (other !== undefined) throw new ModelError(`tensor ${name} is in both ${other.file} and ${file}: download both again`)
      tensors.set(name, tensor)
    }
  }
  return { ...first!, tensors, files }
}
