import { open, rm } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { TENSOR_ALIGNMENT } from '../model/manifest.ts'
import type { BlobFile } from './blob-file.ts'
import { temporaryFolder } from './prepared-blob.ts'

/**
 * Copies of tensors that onnxruntime only reads while it opens a session, though it keeps them mapped: emptying the file takes their pages
 * out of memory. On x86 the scales of quantised weights are such tensors, because they are part of the packed weights too.
 */
export class ScratchTensors {
  readonly #folder: string
  readonly #file: FileHandle
  /** Relative to the blob's folder. */
  readonly location: string
  /** Place of each tensor by its offset in the blob. */
  readonly #places = new Map<number, number>()
  #bytes = 0

  private constructor(folder: string, file: FileHandle) {
    this.#folder = folder
    this.#file = file
    this.location = `prepared/${basename(folder)}/scratch`
  }

  /** Copies byte ranges of a blob. Throws what the file system says. */
  static async copy(blob: BlobFile, ranges: readonly { readonly offset: number; readonly bytes: number }[]): Promise<ScratchTensors> {
    const folder = await temporaryFolder(blob)
    const scratch = new ScratchTensors(folder, await open(join(folder, 'scratch'), 'wx+'))
    const source = await open(blob.path)
    try {
      for (const { offset, bytes } of ranges) {
        scratch.#places.set(offset, scratch.#bytes)
        scratch.#bytes += Math.ceil(bytes / TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT
      }
      const copy = Buffer.alloc(scratch.#bytes)
      const reads = ranges.map(async ({ offset, bytes }) => {
        const { bytesRead } = await source.read(copy, scratch.#places.get(offset)!, bytes, offset)
        if (bytesRead !== bytes) throw new Error(`blob ${blob.cid} ends early`)
      })
      for (const end of await Promise.allSettled(reads)) if (end.status === 'rejected') throw end.reason
      await scratch.#file.writeFile(copy)
      // Megabytes that would otherwise wait for the garbage collector.
      copy.buffer.transfer(0)
      return scratch
    } catch (error) {
      await scratch.close()
      throw error
    } finally {
      await source.close()
    }
  }

  /** Where the tensor at this offset of the blob lies now; undefined when it was not copied. */
  placeOf(offset: number): number | undefined {
    return this.#places.get(offset)
  }

  /** Takes the contents out of the memory of whoever has mapped them: all reads give zeros from now on. */
  async empty(): Promise<void> {
    await this.#file.truncate(0)
    // As long as before, so that a stray read finds zeros and not a bus error.
    await this.#file.truncate(this.#bytes)
  }

  async close(): Promise<void> {
    await this.#file.close()
    await rm(this.#folder, { recursive: true, force: true })
  }
}
