import { ModelError } from '../../errors.ts'
import { INDEX_FILE, SINGLE_FILE } from '../checkpoint-tensors.ts'
import { splitNames } from '../gguf/split-files.ts'
import { TOKENIZER_FILES } from '../tokenizer-files.ts'
import type { HubFile, HubListing } from './hub-client.ts'
import { isSafePath } from './reference.ts'
import type { HubReference } from './reference.ts'

/** What of a repository a model is packed from. */
export type NeededFiles =
  /** The index names the weights; it comes first. */
  | { readonly kind: 'indexed'; readonly files: readonly HubFile[]; readonly index: HubFile }
  | { readonly kind: 'complete'; readonly files: readonly HubFile[]; /** The one to open, where it is no folder. */ readonly open?: string }

const MAX_NAMED = 20

/** Chooses files by their names alone. Throws `ModelError` when there is nothing to pack, or a choice that the user has to make. */
export function neededFiles(reference: HubReference, { files }: HubListing): NeededFiles {
  const byPath = new Map(files.map((file) => [file.path, file]))
  if (reference.file !== undefined) return ggufFiles(reference, byPath, reference.file)
  const small = ['config.json', 'generation_config.json', ...TOKENIZER_FILES]
    .map((name) => byPath.get(name))
    .filter((file) => file !== undefined)
  const index = byPath.get(INDEX_FILE)
  const single = byPath.get(SINGLE_FILE)
  if (byPath.has('config.json') && index !== undefined) return { kind: 'indexed', files: small, index }
  if (byPath.has('config.json') && single !== undefined) return { kind: 'complete', files: [...small, single] }
  const models = new Set([...byPath.keys()].filter((path) => /\.gguf$/i.test(path) && isSafePath(path)).map((path) => siblingsOf(path)[0]!))
  const [only] = models
  if (only === undefined) {
    throw new ModelError(
      `${reference.repo} has neither ${SINGLE_FILE} with a config.json nor GGUF files: look for a conversion of the model on the hub`,
    )
  }
  if (models.size > 1) {
    const list = [...models].slice(0, MAX_NAMED).map((path) => `  hf:${reference.repo}:${path}`)
    throw new ModelError(`${reference.repo} has ${models.size} models in GGUF: name one of\n${list.join('\n')}`)
  }
  return ggufFiles(reference, byPath, only)
}

/** Entries of some names. Throws `ModelError` for one that the listing lacks, or without size or hash. */
export function listedFiles(reference: HubReference, { files }: HubListing, names: readonly string[]): HubFile[] {
  const byPath = new Map(files.map((file) => [file.path, file]))
  return names.map((name) => found(reference, byPath, name))
}

function ggufFiles(reference: HubReference, byPath: ReadonlyMap<string, HubFile>, path: string): NeededFiles {
  const files = siblingsOf(path).map((name) => found(reference, byPath, name))
  return { kind: 'complete', files, open: path }
}

/** A split file's parts, in the folder of the one named. */
function siblingsOf(path: string): string[] {
  const at = path.lastIndexOf('/') + 1
  return splitNames(path.slice(at)).map((name) => path.slice(0, at) + name)
}

function found({ repo, revision }: HubReference, byPath: ReadonlyMap<string, HubFile>, name: string): HubFile {
  const file = byPath.get(name)
  if (file === undefined)
    throw new ModelError(`${repo} has no file ${name} at revision ${revision}: check the spelling, or the list on the model's page`)
  return file
}
