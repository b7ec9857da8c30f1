import type { Manifest } from './manifest.ts'

/** A validated manifest together with the store that holds (some of) its blobs. */
export interface ModelPackage {
  /** CID of the manifest: the model's true name. */
  readonly id: string
  readonly manifest: Manifest
  /** Path of a blob whose hash has been checked in this process. Throws `ModelError` when it is missing or corrupt. */
  blobPath(cid: string): Promise<string>
}
