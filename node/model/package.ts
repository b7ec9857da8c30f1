import type { PathOptions } from './blob-store.ts'
import type { Manifest } from './manifest.ts'

/** A validated manifest together with the store that holds (some of) its blobs. */
export interface ModelPackage {
  /** CID of the manifest: the model's true name. */
  readonly id: string
  readonly manifest: Manifest
  /** As {@link BlobStore.path}. */
  blobPath(cid: string, options?: PathOptions): Promise<string>
}
