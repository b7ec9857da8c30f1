import { mkdir, open, statfs } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { pipe } from 'it-pipe'
import { isMeshError } from '../../../protocols/wire/errors.ts'
import { DiskFullError, ModelError } from '../../errors.ts'
import { indexedFiles, LIMITS as INDEX_LIMITS } from '../checkpoint-tensors.ts'
import { errorCode, readJsonObject } from '../files.ts'
import { HubClient, PassingError } from './hub-client.ts'
import type { HubFile, HubSettings } from './hub-client.ts'
import { listedFiles, neededFiles } from './needed-files.ts'
import { PartialFile } from './partial-file.ts'
import type { Part } from './partial-file.ts'
import type { HubReference } from './reference.ts'

export const DEFAULTS: Readonly<Patience> = Object.freeze({
  /** Parts on their way at once; one connection rarely fills a line. */
  connections: 8,
  attempts: 6,
  firstPauseMs: 500,
  maxPauseMs: 30_000,
  stallMs: 60_000,
})

export interface Patience {
  readonly connections: number
  /** Tries of a part in a row that brought no byte. */
  readonly attempts: number
  /** Before the second try; doubled for each further one. */
  readonly firstPauseMs: number
  readonly maxPauseMs: number
  /** Without a byte, a connection counts as dead. */
  readonly stallMs: number
}

export interface DownloadProgress {
  /** Bytes that are here, those of an earlier run included. */
  readonly bytes: number
  readonly totalBytes: number
}

export interface DownloadInit {
  readonly reference: HubReference
  readonly hub: HubSettings
  /** Downloads of all models; each gets a folder of its own below. */
  readonly dir: string
  readonly onProgress?: (progress: DownloadProgress) => void
  readonly signal?: AbortSignal
  /** Defaults to {@link DEFAULTS}. */
  readonly patience?: Partial<Patience>
}

export interface Download {
  /** Folder that holds everything, for removal. */
  readonly dir: string
  /** What to pack: the folder, or a GGUF file in it. */
  readonly checkpoint: string
  readonly commit: string
}

/**
 * Fetches what a model is packed from, in parallel ranges, and checks every file's hash. The same call goes on where an earlier one ended,
 * however that ended. Throws `ModelError` naming file and remedy, `DiskFullError`, or `signal.reason`.
 */
export async function downloadModel(init: DownloadInit): Promise<Download> {
  const patience = { ...DEFAULTS, ...init.patience }
  const signal = init.signal ?? new AbortController().signal
  const client = new HubClient(init.hub)
  const { reference } = init
  const listing = await patiently(patience, signal, () => client.list(reference, signal))
  const dir = join(init.dir, reference.repo.replace('/', '--'), listing.commit)
  const fetcher = new Fetcher({ client, reference, commit: listing.commit, dir, patience, signal })
  const needed = neededFiles(reference, listing)
  if (needed.kind === 'complete') {
    await fetcher.fetch(needed.files, init.onProgress)
    return { dir, checkpoint: needed.open === undefined ? dir : join(dir, needed.open), commit: listing.commit }
  }
  await fetcher.fetch([needed.index], undefined)
  const indexPath = join(dir, needed.index.path)
  const weights = indexedFiles((await readJsonObject(indexPath, INDEX_LIMITS.indexBytes)) ?? {}, indexPath)
  await fetcher.fetch([...needed.files, ...listedFiles(reference, listing, weights)], init.onProgress)
  return { dir, checkpoint: dir, commit: listing.commit }
}

interface FetcherInit {
  readonly client: HubClient
  readonly reference: HubReference
  readonly commit: string
  readonly dir: string
  readonly patience: Patience
  readonly signal: AbortSignal
}

class Fetcher {
  readonly #init: FetcherInit

  constructor(init: FetcherInit) {
    this.#init = init
  }

  /** Brings some files into the folder; those that are there are left alone. */
  async fetch(files: readonly HubFile[], onProgress: DownloadInit['onProgress']): Promise<void> {
    const { dir, patience, signal } = this.#init
    await mkdir(dir, { recursive: true })
    const totalBytes = files.reduce((sum, file) => sum + file.bytes, 0)
    const partials: PartialFile[] = []
    for (const file of files) {
      const partial = await PartialFile.open(join(dir, file.path), file)
      if (partial !== undefined) partials.push(partial)
    }
    const missing = partials.flatMap((partial) => partial.missing).reduce((sum, { from, to }) => sum + to - from, 0)
    await checkSpace(dir, missing)
    let bytes = totalBytes - missing
    const onBytes = (count: number): void => {
      bytes += count
      onProgress?.({ bytes, totalBytes })
    }
    onBytes(0)
    const failing = new AbortController()
    const all = AbortSignal.any([signal, failing.signal])
    const tasks = this.#tasks(partials, all, onBytes)
    const lane = async (): Promise<void> => {
      for (const task of tasks) await task()
    }
    // Every connection has ended before this does.
    const lanes = Array.from({ length: patience.connections }, () =>
      lane().catch((error: unknown) => {
        failing.abort(error)
        throw error
      }),
    )
    await Promise.allSettled(lanes)
    all.throwIfAborted()
  }

  /** All parts of all files in order, shared by the lanes; the lane that brings a file's last part checks the file. */
  *#tasks(partials: readonly PartialFile[], signal: AbortSignal, onBytes: (count: number) => void): Generator<() => Promise<void>> {
    for (const partial of partials) {
      const parts = partial.missing
      let left = parts.length
      if (left === 0) yield () => partial.finish(signal)
      for (const part of parts) {
        yield async () => {
          await this.#fetchPart(partial, part, signal, onBytes)
          left--
          if (left === 0) await partial.finish(signal)
        }
      }
    }
  }

  async #fetchPart(partial: PartialFile, part: Part, signal: AbortSignal, onBytes: (count: number) => void): Promise<void> {
    const { client, reference, commit, patience } = this.#init
    const output = await open(`${partial.path}.part`, 'r+')
    const { to } = part
    let at = part.from
    try {
      while (at < to) {
        await patiently(patience, signal, async () => {
          const before = at
          const stall = new StallGuard(patience.stallMs, signal)
          try {
            const body = await client.range(reference.repo, commit, partial.file, at, to, stall.signal)
            await pipe(
              body,
              (chunks) => stall.watching(chunks),
              (chunks) =>
                writeAt(output, chunks, at, to, (count) => {
                  at += count
                  onBytes(count)
                }),
            )
          } catch (error) {
            signal.throwIfAborted()
            if (isPassing(error) && at > before) return
            throw isPassing(error)
              ? new PassingError(`${partial.file.path}: ${(error as Error).message}`, 0, { cause: error })
              : named(error, partial)
          } finally {
            stall.end()
          }
          if (at === before) throw new PassingError(`${partial.file.path}: the connection was cut before any byte came`)
        })
      }
    } finally {
      await output.close()
      await partial.keep(part, at)
    }
  }
}

/** Tries again what may pass, with growing pauses. Throws `ModelError` in the end. */
async function patiently<T>(patience: Patience, signal: AbortSignal, attempt: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await attempt()
    } catch (error) {
      signal.throwIfAborted()
      if (!(error instanceof PassingError)) throw error
      if (tries === patience.attempts) {
        throw new ModelError(
          `${error.message}, ${tries} times in a row: check the network and the hub's address (--hub), then run the same command again; it goes on from here`,
          {
            cause: error,
          },
        )
      }
      const pause = Math.min(Math.max(error.retryAfterMs, patience.firstPauseMs * 2 ** (tries - 1)), patience.maxPauseMs)
      await delay(pause, undefined, { signal }).catch(() => signal.throwIfAborted())
    }
  }
}

/** Ends a connection that brings nothing for a while. */
class StallGuard {
  readonly #stalled = new AbortController()
  readonly #ms: number
  readonly signal: AbortSignal
  #timer: NodeJS.Timeout | undefined

  constructor(ms: number, signal: AbortSignal) {
    this.#ms = ms
    this.signal = AbortSignal.any([signal, this.#stalled.signal])
    this.#restart()
  }

  async *watching(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const chunk of chunks) {
      this.#restart()
      yield chunk
    }
    // A cancelled body ends like a complete one.
    this.signal.throwIfAborted()
  }

  end(): void {
    clearTimeout(this.#timer)
  }

  #restart(): void {
    clearTimeout(this.#timer)
    this.#timer = setTimeout(() => this.#stalled.abort(new PassingError(`nothing came for ${this.#ms / 1000} s`)), this.#ms)
  }
}

async function writeAt(
  file: FileHandle,
  chunks: AsyncIterable<Uint8Array>,
  from: number,
  to: number,
  onBytes: (count: number) => void,
): Promise<void> {
  let at = from
  for await (const chunk of chunks) {
    // A server may send more than was asked for.
    let rest = chunk.subarray(0, to - at)
    while (rest.byteLength > 0) {
      const { bytesWritten } = await file.write(rest, 0, rest.byteLength, at)
      rest = rest.subarray(bytesWritten)
      at += bytesWritten
      onBytes(bytesWritten)
    }
    if (at === to) return
  }
}

/** A connection that breaks shows as an error of undici's, which has no class to tell it by. */
function isPassing(error: unknown): boolean {
  return error instanceof PassingError || (error instanceof TypeError && error.message === 'terminated')
}

function named(error: unknown, { path, file }: PartialFile): unknown {
  if (isMeshError(error, 'ModelError')) return error
  if (['ENOSPC', 'EDQUOT', 'EFBIG'].includes(errorCode(error) ?? '')) {
    return new DiskFullError(
      `no space left for ${path} (${file.bytes} bytes): free some and run the same command again; it goes on from here`,
      { cause: error },
    )
  }
  return error
}

async function checkSpace(dir: string, needed: number): Promise<void> {
  const { bavail, bsize } = await statfs(dir)
  if (bavail * bsize >= needed) return
  throw new DiskFullError(
    `the download needs ${(needed / 1e9).toFixed(2)} GB and ${dir} has ${((bavail * bsize) / 1e9).toFixed(2)} GB free: free some, or choose another --data directory`,
  )
}
