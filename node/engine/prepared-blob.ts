/**
 * Weights of a blob in the form that this machine's kernels compute with, in a file beside the blob. onnxruntime makes that form whenever
 * it opens a session and keeps it in memory of its own; finding the same bytes in a file it maps the file instead, so that the weights are
 * shared by processes, can be evicted, and leave memory with the session.
 */
import { createHash, randomUUID } from 'node:crypto'
import { mkdir, open, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { cpus } from 'node:os'
import { join } from 'node:path'
import { TENSOR_ALIGNMENT } from '../model/manifest.ts'
import { fileState } from '../model/verified-blobs.ts'
import type { BlobFile } from './blob-file.ts'
import { readPacks } from './saved-packs.ts'
import type { Pack } from './saved-packs.ts'

/** What one graph of the blob needs; parts lie in the prepared file. */
export interface PreparedGraph {
  readonly packs: readonly Pack[]
  /** Digest of what the graph computes of one fixed row, see {@link digestOf}. */
  readonly check: string
}

export interface PreparedBlob {
  /** Relative to the blob's folder. */
  readonly location: string
  /** Another one when the file has changed. */
  readonly state: string
  readonly graphs: readonly PreparedGraph[]
  /** Digest of what the first graph computes of many rows, which go through other kernels. */
  readonly manyRowsCheck: string
}

interface Index extends Omit<PreparedBlob, 'location' | 'state'> {
  readonly bytes: number
}

const FOLDER = 'prepared'
/** A temporary file untouched for this long belongs to a process that died. */
const STALE_MS = 60 * 60 * 1000
const COPY_BYTES = 4 * 2 ** 20

/** The prepared form of a blob, or null when this machine has none. */
export async function findPrepared(file: BlobFile, graphs: number): Promise<PreparedBlob | null> {
  const location = locationOf(file)
  try {
    const path = join(file.folder, location)
    const index = JSON.parse(await readFile(`${path}.json`, 'utf8')) as Index
    const stats = await stat(path)
    const { size } = stats
    const fits = index.graphs.every(({ packs }) => packs.every(({ parts }) => parts.every((part) => part.offset + part.bytes <= size)))
    const isWhole = index.bytes === size && index.graphs.length === graphs && fits && typeof index.manyRowsCheck === 'string'
    return isWhole ? { location, state: fileState(stats), graphs: index.graphs, manyRowsCheck: index.manyRowsCheck } : null
  } catch {
    // None, or not readable: it is only a copy and made anew.
    return null
  }
}

/** Forgets the prepared form, which turned out wrong. */
export async function discardPrepared(file: BlobFile): Promise<void> {
  const path = join(file.folder, locationOf(file))
  await rm(`${path}.json`, { force: true })
  await rm(path, { force: true })
}

/** Digest of the numbers that a check run gave. */
export function digestOf(numbers: Float32Array): string {
  return createHash('sha256')
    .update(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength))
    .digest('hex')
}

/** Writes the prepared form of one blob, graph by graph; visible only once finished. */
export class PreparedWriter {
  readonly #file: BlobFile
  /** Folder for unfinished files, of this writer alone. */
  readonly folder: string
  readonly #data: FileHandle
  readonly #graphs: PreparedGraph[] = []
  #bytes = 0

  private constructor(file: BlobFile, folder: string, data: FileHandle) {
    this.#file = file
    this.folder = folder
    this.#data = data
  }

  /** Throws what the file system says when the store can't be written to. */
  static async create(file: BlobFile): Promise<PreparedWriter> {
    const folder = await temporaryFolder(file)
    return new PreparedWriter(file, folder, await open(join(folder, 'data'), 'wx'))
  }

  /** Adds the graph that onnxruntime saved as `<name>.onnx` with its weights in `<name>.bin`, and removes those files. */
  async add(name: string, check: string): Promise<void> {
    const weights = join(this.folder, `${name}.bin`)
    const saved = await readFile(join(this.folder, `${name}.onnx`))
    const from = await open(weights)
    try {
      const packs: Pack[] = []
      for (const { key, parts } of readPacks(saved)) {
        const placed: Pack['parts'][number][] = []
        for (const part of parts) placed.push(await this.#copy(from, part))
        packs.push({ key, parts: placed })
      }
      this.#graphs.push({ packs, check })
    } finally {
      await from.close()
    }
    await rm(weights)
    await rm(join(this.folder, `${name}.onnx`))
  }

  async finish(manyRowsCheck: string): Promise<PreparedBlob> {
    const location = locationOf(this.#file)
    const path = join(this.#file.folder, location)
    const index: Index = { bytes: this.#bytes, graphs: this.#graphs, manyRowsCheck }
    await this.#data.truncate(this.#bytes)
    await this.#data.close()
    await writeFile(join(this.folder, 'index'), JSON.stringify(index))
    await rename(join(this.folder, 'data'), path)
    await rename(join(this.folder, 'index'), `${path}.json`)
    await rm(this.folder, { recursive: true, force: true })
    return { location, state: fileState(await stat(path)), graphs: this.#graphs, manyRowsCheck }
  }

  async abort(): Promise<void> {
    await this.#data.close().catch(() => {})
    await rm(this.folder, { recursive: true, force: true })
  }

  async #copy(from: FileHandle, { offset, bytes }: Pack['parts'][number]): Promise<Pack['parts'][number]> {
    const start = this.#bytes
    const buffer = Buffer.allocUnsafe(Math.min(bytes, COPY_BYTES))
    for (let done = 0; done < bytes;) {
      const { bytesRead } = await from.read(buffer, 0, Math.min(bytes - done, COPY_BYTES), offset + done)
      if (bytesRead === 0) throw new Error('the saved weights end early')
      for (let written = 0; written < bytesRead;) {
        written += (await this.#data.write(buffer, written, bytesRead - written, start + done + written)).bytesWritten
      }
      done += bytesRead
    }
    this.#bytes = Math.ceil((start + bytes) / TENSOR_ALIGNMENT) * TENSOR_ALIGNMENT
    return { offset: start, bytes }
  }
}

/** A new folder for files of this process beside the blob's prepared form. */
export async function temporaryFolder(file: BlobFile): Promise<string> {
  await prune(file.folder)
  const folder = join(file.folder, FOLDER, `tmp-${randomUUID()}`)
  await mkdir(folder, { recursive: true })
  return folder
}

const pruned = new Set<string>()

/** Once per process: removes what dead processes left, and prepared forms whose blob is gone. */
async function prune(store: string): Promise<void> {
  if (pruned.has(store)) return
  pruned.add(store)
  const names = await readdir(join(store, FOLDER)).catch(() => [])
  for (const name of names) {
    const path = join(store, FOLDER, name)
    const isOrphan = name.startsWith('tmp-')
      ? await stat(path).then(
          (stats) => Date.now() - stats.mtimeMs > STALE_MS,
          () => false,
        )
      : await stat(join(store, name.split('.')[0]!)).then(
          () => false,
          () => true,
        )
    if (isOrphan) await rm(path, { recursive: true, force: true })
  }
}

let machine: string | undefined

/** The form depends on onnxruntime's version and the processor; a wrong one would be noticed and not used. */
function locationOf(file: BlobFile): string {
  if (machine === undefined) {
    const { version } = createRequire(import.meta.url)('onnxruntime-node/package.json') as { version: string }
    const parts = [version, process.platform, process.arch, cpus()[0]?.model ?? '']
    machine = createHash('sha256').update(parts.join('\n')).digest('hex').slice(0, 12)
  }
  return `${FOLDER}/${file.fileName}.${machine}`
}
