import { availableParallelism } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { DiskFullError, ModelError } from '../errors.ts'
import { encodeBlob, sourceBytes } from './blob-spec.ts'
import type { BlobSpec } from './blob-spec.ts'
import type { BlobStore } from './blob-store.ts'
import { TensorReader } from './tensor-reader.ts'

export const DEFAULTS = Object.freeze({
  /** A worker takes up to 200 MB; these stay below 2 GB with the program itself. */
  maxThreads: 8,
})

/** Packing less than this takes as long as starting a thread. */
const MIN_BYTES_PER_THREAD = 32 * 2 ** 20
/** For a worker to remove its unfinished file; it looks up after every chunk. */
const STOP_TIMEOUT_MS = 5_000

export type WorkerRequest = { readonly kind: 'write'; readonly spec: BlobSpec } | { readonly kind: 'stop' }
export type WorkerReply =
  | { readonly kind: 'read'; readonly bytes: number }
  | { readonly kind: 'written'; readonly cid: string; readonly bytes: number }
  | { readonly kind: 'failed'; readonly name: string; readonly message: string; readonly stack: string }

export interface WriteBlobsInit {
  readonly store: BlobStore
  readonly specs: readonly BlobSpec[]
  /** Threads at most; defaults to one per core, at most {@link DEFAULTS}. */
  readonly threads?: number
  /** Hears of bytes of the checkpoint read. */
  readonly onRead: (bytes: number) => void
  /** Hears of each blob once it is in the store; awaited before the next one of the same thread. */
  readonly onWritten: (index: number, cid: string) => Promise<void>
  readonly signal?: AbortSignal
}

/** Writes blobs in parallel, small lots in this thread. Throws the first error, or `signal.reason`; unfinished files are gone then. */
export async function writeBlobs(init: WriteBlobsInit): Promise<void> {
  const total = init.specs.reduce((sum, spec) => sum + sourceBytes(spec), 0)
  const cores = init.threads ?? Math.min(availableParallelism(), DEFAULTS.maxThreads)
  const threads = Math.min(cores, init.specs.length, Math.floor(total / MIN_BYTES_PER_THREAD))
  if (threads < 1) await writeHere(init)
  else await writeInThreads(init, threads)
}

async function writeHere({ store, specs, onRead, onWritten, signal }: WriteBlobsInit): Promise<void> {
  const reader = new TensorReader()
  try {
    for (const [index, spec] of specs.entries()) {
      const { cid } = await store.write(encodeBlob(spec, reader, onRead), signal === undefined ? {} : { signal })
      await onWritten(index, cid)
    }
  } finally {
    reader.close()
  }
}

async function writeInThreads({ store, specs, onRead, onWritten, signal }: WriteBlobsInit, threads: number): Promise<void> {
  signal?.throwIfAborted()
  const workers = Array.from({ length: threads }, () => new PackThread(store.dir, onRead))
  const stopping = new AbortController()
  const onAbort = (): void => stopping.abort(signal?.reason)
  signal?.addEventListener('abort', onAbort, { once: true })
  let next = 0
  const lane = async (worker: PackThread): Promise<void> => {
    while (next < specs.length) {
      stopping.signal.throwIfAborted()
      const index = next++
      const cid = await worker.write(specs[index]!, stopping.signal)
      await onWritten(index, cid)
    }
  }
  try {
    // Every lane has ended before this does, so that no thread writes on behind the caller's back.
    const ends = await Promise.allSettled(
      workers.map((worker) =>
        lane(worker).catch((error: unknown) => {
          stopping.abort(error)
          throw error
        }),
      ),
    )
    if (stopping.signal.aborted) throw stopping.signal.reason
    const failed = ends.find((end) => end.status === 'rejected')
    if (failed !== undefined) throw failed.reason
  } finally {
    signal?.removeEventListener('abort', onAbort)
    await Promise.all(workers.map((worker) => worker.close()))
  }
}

class PackThread {
  readonly #worker: Worker
  #waiting: PromiseWithResolvers<string> | undefined
  #dead: Error | undefined

  constructor(storeDir: string, onRead: (bytes: number) => void) {
    this.#worker = new Worker(new URL('./pack-worker.ts', import.meta.url), { workerData: { storeDir }, execArgv: [] })
    this.#worker.on('message', (reply: WorkerReply) => {
      if (reply.kind === 'read') onRead(reply.bytes)
      else if (reply.kind === 'written') this.#waiting?.resolve(reply.cid)
      else this.#waiting?.reject(toError(reply))
    })
    this.#worker.on('error', (error) => this.#die(error as Error))
    this.#worker.on('exit', () =>
      this.#die(new ModelError('a packing thread ended: too little memory? Run the same command again to go on')),
    )
  }

  /** CID of the blob. When `signal` fires the thread gives up, removes what it wrote, and this rejects. */
  async write(spec: BlobSpec, signal: AbortSignal): Promise<string> {
    if (this.#dead !== undefined) throw this.#dead
    const waiting = Promise.withResolvers<string>()
    this.#waiting = waiting
    const onAbort = (): void => {
      this.#post({ kind: 'stop' })
      void delay(STOP_TIMEOUT_MS, undefined, { ref: false }).then(() => waiting.reject(signal.reason))
    }
    signal.addEventListener('abort', onAbort, { once: true })
    this.#post({ kind: 'write', spec })
    try {
      return await waiting.promise
    } finally {
      signal.removeEventListener('abort', onAbort)
    }
  }

  async close(): Promise<void> {
    await this.#worker.terminate()
  }

  #post(request: WorkerRequest): void {
    this.#worker.postMessage(request, [])
  }

  #die(error: Error): void {
    this.#dead ??= error
    this.#waiting?.reject(error)
  }
}

/** Errors lose their class between threads. */
function toError({ name, message, stack }: Extract<WorkerReply, { kind: 'failed' }>): Error {
  const error = name === 'ModelError' ? new ModelError(message) : name === 'DiskFullError' ? new DiskFullError(message) : new Error(message)
  error.stack = stack
  return error
}
