import { open } from 'node:fs/promises'
import type { RangeRequest } from '../../protocols/blob/index.ts'
import { isMeshError } from '../../protocols/wire/errors.ts'
import { blobCid } from '../model/blob-cid.ts'
import type { BlobStore } from '../model/blob-store.ts'

/** Ranges of the blobs of a store, each blob's hash checked before anything of it is read; null for what is not there or is corrupt. */
export function createBlobReader(store: BlobStore): (request: RangeRequest) => Promise<{ blobBytes: number; bytes: Uint8Array } | null> {
  return async ({ digest, offset, length }) => {
    const cid = blobCid(Buffer.from(digest, 'hex'))
    if (!(await store.has(cid))) return null
    let path: string
    try {
      path = await store.path(cid)
    } catch (error) {
      // Removed or found corrupt just now: in either case it is not here.
      if (isMeshError(error, 'ModelError')) return null
      throw error
    }
    const file = await open(path, 'r')
    try {
      const { size } = await file.stat()
      const buffer = new Uint8Array(Math.max(0, Math.min(length, size - offset)))
      const { bytesRead } = await file.read(buffer, 0, buffer.length, offset)
      return { blobBytes: size, bytes: buffer.subarray(0, bytesRead) }
    } finally {
      await file.close()
    }
  }
}
