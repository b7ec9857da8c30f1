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
  readonly #source: FileHandle
  readonly #cid: string
  /** Relative to the blob's folder. */
  readonly location: string
  /** Place of each tensor by its offset in the blob. */
  readonly #places = new Map<number, number>()
  #bytes = 0

  private constructor(folder: string, file: FileHandle, source: FileHandle, cid: string) {
    this.#folder = folder
    this.#file = file
    this.#source = source
    this.#cid = cid
    this.location = `prepared/${basename(folder)}/scratch`
  }

  /** An empty file for tensors of the blob. Throws what the file system says. */
  static async create(blob: BlobFile): Promise<ScratchTensors> {
    const source = await open(blob.path)
    try {
      const folder = await temporaryFolder(blob)
      return new ScratchTensors(folder, await open(join(folder, 'scratch'), 'wx+'), source, blob.cid)
    } catch (error) {
      await source.close()
      throw error
    }
  }

  /** Copies byte ranges of the blob. Throws what the file system says. */
  async add(ranges: readonly { readonly offset: number; readonly bytes: number }[]): Promise<void> {
    const start = this.#bytes
    for (const { offset, bytes } of ranges) {
      this.#places.set(offset, this.#bytes)
      this.#bytes += Math.ceil(bytes / TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT
    }
    const copy = Buffer.alloc(this.#bytes - start)
    const reads = ranges.map(async ({ offset, bytes }) => {
      const { bytesRead } = await this.#source.read(copy, this.#places.get(offset)! - start, bytes, offset)
      if (bytesRead !== bytes) throw new Error(`blob ${this.#cid} ends early`)
    })
    for (const end of await Promise.allSettled(reads)) if (end.status === 'rejected') throw end.reason
    for (let written = 0; written < copy.length;) {
      written += (await this.#file.write(copy, written, copy.length - written, start + written)).bytesWritten
    }
    // Megabytes that would otherwise wait for the garbage collector.
    copy.buffer.transfer(0)
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
    await this.#source.close()
    await this.#file.close()
    await rm(this.#folder, { recursive: true, force: true })
  }
}
