import { stat } from 'node:fs/promises'
import { basename, dirname } from 'node:path'
import { ModelError } from '../errors.ts'
import type { BlobEntry, Manifest, TensorEntry } from '../model/manifest.ts'
import type { ModelPackage } from '../model/package.ts'
import { WorkerRequestError } from './engine-worker.ts'
import type { ScratchTensors } from './scratch-tensors.ts'
import { BlobWeights } from './weights.ts'

type RoleEntry<R extends BlobEntry['role']> = Extract<BlobEntry, { role: R }>

/** A blob on disk whose hash and size are right. */
export interface BlobFile {
  readonly cid: string
  readonly path: string
  readonly folder: string
  readonly fileName: string
  readonly bytes: number
}

/** Finds the one blob of a role that `matches`. Throws `ModelError` when the manifest has none. */
export function findBlob<R extends BlobEntry['role']>(
  manifest: Manifest,
  role: R,
  matches: (blob: RoleEntry<R>) => boolean,
  what: string,
): RoleEntry<R> {
  const found = manifest.blobs.find((blob): blob is RoleEntry<R> => blob.role === role && matches(blob as RoleEntry<R>))
  if (found === undefined) throw new ModelError(`model ${manifest.name} has no ${what}; pack it again`)
  return found
}

/** Throws `ModelError` when the blob is missing, corrupt or not as long as the manifest says. */
export async function openBlob(model: ModelPackage, blob: { readonly cid: string; readonly bytes: number }): Promise<BlobFile> {
  const path = await model.blobPath(blob.cid)
  // onnxruntime maps the file: reading beyond a short one's end would kill the process.
  const size = await stat(path).then(
    (file) => file.size,
    () => 0,
  )
  if (size !== blob.bytes)
    throw new ModelError(`blob ${blob.cid} has ${size} bytes instead of ${blob.bytes}; delete it and fetch or pack it again`)
  return { cid: blob.cid, path, folder: dirname(path), fileName: basename(path), bytes: blob.bytes }
}

/** The tensors of a blob, for a graph. `start`: byte from which the entries' offsets count; `scratch`: where some of them lie instead. */
export function blobWeights(
  file: BlobFile,
  manifest: Manifest,
  tensors: readonly TensorEntry[],
  { start = 0, scratch = null }: { readonly start?: number; readonly scratch?: ScratchTensors | null } = {},
): BlobWeights {
  const { cid, fileName, bytes } = file
  return new BlobWeights({ cid, fileName, bytes, quant: manifest.quant, tensors, start, scratch })
}

/** Names the blob when onnxruntime refuses it; a dead worker stays what it is. */
export async function loading(file: BlobFile, opened: Promise<unknown>): Promise<void> {
  try {
    await opened
  } catch (error) {
    if (!(error instanceof WorkerRequestError)) throw error
    throw new ModelError(`blob ${file.cid} can't be loaded: ${error instanceof Error ? error.message : String(error)}`, { cause: error })
  }
}
