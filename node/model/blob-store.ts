import { createHash, randomUUID } from 'node:crypto'
import type { Hash } from 'node:crypto'
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { Stats } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { pipe } from 'it-pipe'
import { DiskFullError, ModelError } from '../errors.ts'
import { assertBlobCid, blobCid } from './blob-cid.ts'
import { errorCode } from './files.ts'
import { fileState, VerifiedBlobs } from './verified-blobs.ts'

export const LIMITS = Object.freeze({
  /** Largest blob written: an embedding of 256 Ki tokens × 8 Ki wide in f32 fits. */
  blobBytes: 8 * 2 ** 30,
})

/** A temporary file untouched for this long belongs to a process that died. */
const STALE_TEMPORARY_MS = 60 * 60 * 1000
/** The disk, a quota or a limit of the process on files. */
const NO_SPACE = ['ENOSPC', 'EDQUOT', 'EFBIG']
/** What came of a blob is kept so long for another try. */
const STALE_PARTIAL_MS = 7 * 24 * 60 * 60 * 1000
const PARTIAL = '.part'
/** A partial blob that did not grow for so long was left by a process that died. */
const ORPHANED_MS = 60_000
const READ_CHUNK_BYTES = 1 << 20

export interface WriteOptions {
  /** CID that the source must hash to; otherwise nothing is kept and `ModelError` is thrown. */
  readonly expected?: string
  /** Defaults to {@link LIMITS}. */
  readonly maxBytes?: number
  readonly signal?: AbortSignal
}

export interface ResumeOptions {
  /** Size of the blob. */
  readonly bytes: number
  /** Throws away what an earlier try left. */
  readonly fromStart?: boolean
  readonly signal?: AbortSignal
}

export interface PathOptions {
  /** Whatever is remembered of the file. */
  readonly fresh?: boolean
}

export interface BlobStore {
  readonly dir: string
  /** Stores the source, which no longer touches a chunk that it has given, under the hash of its bytes; visible only once complete. Throws `ModelError`, `DiskFullError` or `signal.reason`. */
  write(source: AsyncIterable<Uint8Array>, options?: WriteOptions): Promise<{ readonly cid: string; readonly bytes: number }>
  /**
   * Stores a blob that comes in pieces: goes on where an earlier try broke off, `source` begins at the offset that it is given. What had
   * come stays when it throws. False when the whole does not hash to `cid`: then nothing stays. Throws `ModelError`, `DiskFullError` or what `source` throws.
   */
  resume(cid: string, source: (offset: number) => AsyncIterable<Uint8Array>, options: ResumeOptions): Promise<boolean>
  /** Whether the blob's file is there; says nothing of its content. */
  has(cid: string): Promise<boolean>
  /**
   * Path of the blob's file, its hash checked once per state of the file (over restarts for a week), or now where `fresh` says so.
   * Throws `ModelError` when it is missing or corrupt; a corrupt file is put aside as `<cid>.corrupt`.
   */
  path(cid: string, options?: PathOptions): Promise<string>
  /** Removes the blob; one that is not there is no error. */
  delete(cid: string): Promise<void>
}

export interface BlobStoreInit {
  /** Created on first write; may be shared by several processes. */
  readonly dir: string
}

/** Content-addressed files `<dir>/<cid>`; all changes are atomic renames, so that processes can share a directory. */
export function createBlobStore(init: BlobStoreInit): BlobStore {
  return new FileBlobStore(init.dir)
}

class FileBlobStore implements BlobStore {
  readonly dir: string
  /** State of each file when its hash was last found right, in this process or, by {@link VerifiedBlobs}, in an earlier one. */
  readonly #verified = new Map<string, string>()
  readonly #verifiedBefore: VerifiedBlobs
  readonly #verifying = new Map<string, Promise<string>>()
  #temporaryDir: Promise<string> | undefined

  constructor(dir: string) {
    this.dir = dir
    this.#verifiedBefore = new VerifiedBlobs(dir)
  }

  async write(source: AsyncIterable<Uint8Array>, options: WriteOptions = {}): Promise<{ cid: string; bytes: number }> {
    if (options.expected !== undefined) assertBlobCid(options.expected)
    options.signal?.throwIfAborted()
    this.#temporaryDir ??= this.#prepare()
    const temporary = join(await this.#temporaryDir, randomUUID())
    const hash = createHash('sha256')
    try {
      const bytes = await this.#fill(temporary, source, hash, options)
      const cid = blobCid(hash.digest())
      if (options.expected !== undefined && cid !== options.expected) {
        throw new ModelError(`blob ${options.expected} has the wrong content (it hashes to ${cid}): fetch it from another source`)
      }
      await this.#finish(cid, temporary)
      return { cid, bytes }
    } catch (error) {
      await rm(temporary, { force: true })
      throw error
    }
  }

  async resume(cid: string, source: (offset: number) => AsyncIterable<Uint8Array>, options: ResumeOptions): Promise<boolean> {
    assertBlobCid(cid)
    options.signal?.throwIfAborted()
    this.#temporaryDir ??= this.#prepare()
    const dir = await this.#temporaryDir
    const kept = join(dir, `${cid}${PARTIAL}`)
    const temporary = `${kept}.${randomUUID()}`
    const hash = createHash('sha256')
    let offset = 0
    if (options.fromStart !== true && (await this.#claim(dir, kept, temporary))) {
      offset = await hashFile(temporary, hash)
      if (offset > options.bytes) {
        await rm(temporary, { force: true })
        return false
      }
    }
    try {
      const maxBytes = options.bytes - offset
      await this.#fill(temporary, source(offset), hash, { maxBytes, ...signalOf(options) })
      if (blobCid(hash.digest()) !== cid) {
        await rm(temporary, { force: true })
        return false
      }
      await this.#finish(cid, temporary)
      return true
    } catch (error) {
      await renameIfThere(temporary, kept)
      throw error
    }
  }

  /** Takes over what an earlier try left, in this process or in one that died. */
  async #claim(dir: string, kept: string, temporary: string): Promise<boolean> {
    if (await renameIfThere(kept, temporary)) return true
    for (const name of await readdir(dir)) {
      const path = join(dir, name)
      if (!path.startsWith(`${kept}.`)) continue
      const stats = await statIfThere(path)
      // One that still grows belongs to another process.
      if (stats !== undefined && Date.now() - stats.mtimeMs > ORPHANED_MS && (await renameIfThere(path, temporary))) return true
    }
    return false
  }

  /** Appends the source to a file, hashing what passes. */
  async #fill(path: string, source: AsyncIterable<Uint8Array>, hash: Hash, options: WriteOptions): Promise<number> {
    try {
      const file = await open(path, 'a')
      try {
        return await pipe(
          source,
          bounded(options.maxBytes ?? LIMITS.blobBytes, options.signal),
          (chunks) => hashing(chunks, hash),
          (chunks) => writeAll(chunks, file),
        )
      } finally {
        await file.close()
      }
    } catch (error) {
      if (!NO_SPACE.includes(errorCode(error) ?? '')) throw error
      throw new DiskFullError(`no space left in ${this.dir} (${errorCode(error)}): free some, or choose another data directory`, {
        cause: error,
      })
    }
  }

  /** Makes a file visible whose bytes have the hash. */
  async #finish(cid: string, temporary: string): Promise<void> {
    const path = this.#file(cid)
    await rename(temporary, path)
    // Another process may have deleted it since.
    const stats = await statIfThere(path)
    if (stats !== undefined) this.#verified.set(cid, fileState(stats))
  }

  async has(cid: string): Promise<boolean> {
    assertBlobCid(cid)
    return (await statIfThere(this.#file(cid))) !== undefined
  }

  async path(cid: string, { fresh = false }: PathOptions = {}): Promise<string> {
    assertBlobCid(cid)
    const path = this.#file(cid)
    const stats = await statIfThere(path)
    if (stats === undefined) throw new ModelError(`blob ${cid} is missing (${path}): pack the model again, or fetch the blob from a peer`)
    const state = fileState(stats)
    if (!fresh && !this.#verified.has(cid) && (await this.#verifiedBefore.has(cid, stats))) this.#verified.set(cid, state)
    if (!fresh && this.#verified.get(cid) === state) return path
    let verifying = this.#verifying.get(cid)
    if (verifying === undefined) {
      verifying = this.#verify(cid, path, stats).finally(() => this.#verifying.delete(cid))
      this.#verifying.set(cid, verifying)
    }
    return await verifying
  }

  async delete(cid: string): Promise<void> {
    assertBlobCid(cid)
    this.#verified.delete(cid)
    await this.#verifiedBefore.delete(cid)
    await rm(this.#file(cid), { force: true })
  }

  async #verify(cid: string, path: string, before: Stats): Promise<string> {
    const hash = createHash('sha256')
    await hashFile(path, hash)
    if (blobCid(hash.digest()) === cid) {
      this.#verified.set(cid, fileState(before))
      await this.#verifiedBefore.add(cid, before)
      return path
    }
    // Another process may have replaced the file by a good one meanwhile; that one is left alone.
    const after = await statIfThere(path)
    if (after !== undefined && fileState(after) === fileState(before)) await rename(path, `${path}.corrupt`)
    throw new ModelError(
      `blob ${cid} is corrupt: its bytes do not match its hash; put aside as ${path}.corrupt. Pack the model again, or fetch the blob from a peer`,
    )
  }

  #file(cid: string): string {
    return join(this.dir, cid)
  }

  /** Makes the directory for unfinished files and removes what dead processes left there. */
  async #prepare(): Promise<string> {
    const dir = join(this.dir, 'tmp')
    await mkdir(dir, { recursive: true })
    for (const name of await readdir(dir)) {
      const stats = await statIfThere(join(dir, name))
      const staleMs = name.includes(PARTIAL) ? STALE_PARTIAL_MS : STALE_TEMPORARY_MS
      if (stats !== undefined && Date.now() - stats.mtimeMs > staleMs) await rm(join(dir, name), { force: true })
    }
    return dir
  }
}

/** Feeds a file to the hash; resolves with its length. One buffer serves all of it: those of a stream wait for the garbage collector. */
async function hashFile(path: string, hash: Hash): Promise<number> {
  const file = await open(path)
  try {
    const buffer = Buffer.allocUnsafe(READ_CHUNK_BYTES)
    let length = 0
    for (;;) {
      const { bytesRead } = await file.read(buffer, 0, buffer.length)
      if (bytesRead === 0) return length
      hash.update(buffer.subarray(0, bytesRead))
      length += bytesRead
    }
  } finally {
    await file.close()
  }
}

function signalOf({ signal }: ResumeOptions): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal }
}

async function renameIfThere(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to)
    return true
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return false
    throw error
  }
}

function bounded(maxBytes: number, signal: AbortSignal | undefined) {
  return async function* (source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    let bytes = 0
    for await (const chunk of source) {
      signal?.throwIfAborted()
      bytes += chunk.byteLength
      if (bytes > maxBytes) throw new ModelError(`blob is larger than ${maxBytes} bytes: the source is wrong, or its model is too large`)
      yield chunk
    }
  }
}

async function* hashing(source: AsyncIterable<Uint8Array>, hash: Hash): AsyncGenerator<Uint8Array> {
  for await (const chunk of source) {
    hash.update(chunk)
    yield chunk
  }
}

/** Waits for a chunk's write only once the next chunk is there, so that who makes chunks goes on meanwhile. */
async function writeAll(source: AsyncIterable<Uint8Array>, file: FileHandle): Promise<number> {
  let bytes = 0
  let written: Promise<void> = Promise.resolve()
  try {
    for await (const chunk of source) {
      bytes += chunk.byteLength
      await written
      written = writeChunk(chunk, file)
      // Whether it failed is seen when it is awaited, which may be after the source ended with an error of its own.
      written.catch(() => {})
    }
  } finally {
    await written
  }
  return bytes
}

async function writeChunk(chunk: Uint8Array, file: FileHandle): Promise<void> {
  let rest = chunk
  while (rest.byteLength > 0) {
    const { bytesWritten } = await file.write(rest)
    rest = rest.subarray(bytesWritten)
  }
}

async function statIfThere(path: string): Promise<Stats | undefined> {
  try {
    return await stat(path)
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined
    throw error
  }
}
