import { ModelError } from '../errors.ts'
import type { ShardEntry } from '../model/manifest.ts'
import type { ModelPackage } from '../model/package.ts'
import { blobWeights, loading, openBlob } from './blob-file.ts'
import type { BlobFile } from './blob-file.ts'
import type { Provider } from './device.ts'
import type { EngineWorker } from './engine-worker.ts'
import { expertGraph } from './expert-graph.ts'
import { reusingFreedBuffers } from './native-heap.ts'
import { addPacks } from './onnx-graph.ts'
import { digestOf, discardPrepared, findPrepared, PreparedWriter } from './prepared-blob.ts'
import type { PreparedBlob } from './prepared-blob.ts'
import { ScratchTensors } from './scratch-tensors.ts'
import type { GraphSource, SessionThreads } from './worker-messages.ts'

export interface ShardLoaderInit {
  /** Number of the set of experts in the workers. */
  readonly id: number
  readonly model: ModelPackage
  readonly workers: readonly EngineWorker[]
  readonly threads: SessionThreads
  readonly provider: Provider
  /** Shards of at least this many bytes are prepared; the weights of smaller ones are packed in memory. */
  readonly preparedFromBytes: number
  readonly warn: (message: string) => void
}

/** Rows of the run that checks a session, and of the one that checks the kernels for many rows. */
const CHECK_ROWS = 1
const MANY_ROWS = 20
/** Where the kernels of quantised weights read the scales out of the packed weights alone, and a mapped file can be emptied. */
const SCALES_ARE_PACKED = process.arch === 'x64' && process.platform !== 'win32'

/** Of one worker. */
const ACTS_IN_FLIGHT = 2

/** Opens the sessions of shards in the workers, expert e in worker e mod their number. */
export class ShardLoader {
  readonly #init: ShardLoaderInit
  #emptiesScales = SCALES_ARE_PACKED
  #canPrepare = true
  /** State of each prepared file that was last found right, as blobs are read and hashed once. */
  readonly #found = new Map<string, string>()
  /** Whether prepared weights were seen to give what the blob's own give of many rows too. */
  #isRightForManyRows = false

  constructor(init: ShardLoaderInit) {
    this.#init = init
  }

  /** Throws `ModelError` when the blob can't be used; sessions may be open then. */
  async open(entry: ShardEntry): Promise<void> {
    const file = await openBlob(this.#init.model, entry)
    const { provider, preparedFromBytes } = this.#init
    await reusingFreedBuffers(async () => {
      // Other providers take the weights into memory of their own.
      const isPrepared = provider === 'cpu' && entry.bytes >= preparedFromBytes && (await this.#openPrepared(entry, file))
      if (!isPrepared) await this.#openPlain(entry, file)
    })
  }

  async close(entry: ShardEntry): Promise<void> {
    const { id, workers } = this.#init
    const calls: Promise<unknown>[] = []
    for (let expert = entry.first; expert <= entry.last; expert++) {
      calls.push(workers[this.workerOf(expert)]!.call({ op: 'close-expert', experts: id, layer: entry.layer, expert }))
    }
    await Promise.allSettled(calls)
  }

  workerOf(expert: number): number {
    return expert % this.#init.workers.length
  }

  async #openPlain(entry: ShardEntry, file: BlobFile): Promise<void> {
    await this.#eachExpert(entry, (expert, worker) => this.#openExpert(entry, file, expert, worker, this.#source(entry, file, expert)))
  }

  /** False when the store can't hold the prepared form, or sessions do not compute with it what they compute without. */
  async #openPrepared(entry: ShardEntry, file: BlobFile): Promise<boolean> {
    const prepared = (await findPrepared(file, entry.last - entry.first + 1)) ?? (await this.#prepare(entry, file))
    if (prepared === null) return false
    if (await this.#openWith(entry, file, prepared, this.#emptiesScales)) return true
    if (this.#emptiesScales && (await this.#openWith(entry, file, prepared, false))) {
      this.#emptiesScales = false
      return true
    }
    await discardPrepared(file)
    // The blob itself may have changed behind the back of the file system.
    await this.#init.model.blobPath(file.cid, { fresh: true })
    this.#init.warn(`the prepared weights of blob ${file.cid} are wrong; they were removed, and its weights are packed in memory`)
    return false
  }

  /** Whether all experts are open and right. */
  async #openWith(entry: ShardEntry, file: BlobFile, prepared: PreparedBlob, emptiesScales: boolean): Promise<boolean> {
    const scratch = emptiesScales && this.#scalesOf(entry, entry.first).length > 0 ? await ScratchTensors.create(file) : null
    try {
      await this.#eachExpert(entry, async (expert, worker) => {
        await scratch?.add(this.#scalesOf(entry, expert))
        const source = this.#source(entry, file, expert, scratch)
        const { packs } = prepared.graphs[expert - entry.first]!
        await this.#openExpert(entry, file, expert, worker, { ...source, model: addPacks(source.model, prepared.location, packs) })
      })
      await scratch?.empty()
    } finally {
      await scratch?.close()
    }
    if (this.#found.get(prepared.location) === prepared.state) return true
    const isRight = await this.#isRight(entry, prepared)
    if (isRight) this.#found.set(prepared.location, prepared.state)
    else await this.close(entry)
    return isRight
  }

  /** Whether the sessions compute what they computed with the blob's own weights. */
  async #isRight(entry: ShardEntry, prepared: PreparedBlob): Promise<boolean> {
    let isRight = true
    await this.#eachExpert(entry, async (expert, worker) => {
      if ((await this.#check(entry, expert, worker, CHECK_ROWS)) !== prepared.graphs[expert - entry.first]!.check) isRight = false
    })
    if (!isRight || this.#isRightForManyRows) return isRight
    // One row has shown that the weights are right, and what kernels read of them is the same in all shards.
    this.#isRightForManyRows = (await this.#checkManyRows(entry)) === prepared.manyRowsCheck
    return this.#isRightForManyRows
  }

  /** Null when the store can't be written to. */
  async #prepare(entry: ShardEntry, file: BlobFile): Promise<PreparedBlob | null> {
    if (!this.#canPrepare) return null
    let writer: PreparedWriter | null = null
    let manyRowsCheck = ''
    try {
      writer = await PreparedWriter.create(file)
      const { id } = this.#init
      // One after the other: the files of one expert are twice its size.
      for (let expert = entry.first; expert <= entry.last; expert++) {
        const worker = this.#init.workers[this.workerOf(expert)]!
        const name = String(expert)
        const source = { ...this.#source(entry, file, expert), saveTo: { folder: writer.folder, name } }
        await loading(file, worker.call({ op: 'open-expert', experts: id, layer: entry.layer, expert, source }))
        const check = await this.#check(entry, expert, worker, CHECK_ROWS)
        if (expert === entry.first) manyRowsCheck = await this.#checkManyRows(entry)
        await worker.call({ op: 'close-expert', experts: id, layer: entry.layer, expert })
        await writer.add(name, check)
      }
      return await writer.finish(manyRowsCheck)
    } catch (error) {
      await writer?.abort()
      if (error instanceof ModelError) throw error
      this.#canPrepare = false
      this.#init.warn(`weights can't be prepared in ${file.folder} and are packed in memory instead: ${(error as Error).message}`)
      return null
    }
  }

  /** Where the scales of one expert lie in the blob. */
  #scalesOf(entry: ShardEntry, expert: number): { offset: number; bytes: number }[] {
    const { stride, tensors } = this.#init.model.manifest.expertLayout
    const start = (expert - entry.first) * stride
    const scales = tensors.filter(({ name }) => name.endsWith('.scales'))
    return scales.map(({ offset, bytes }) => ({ offset: start + offset, bytes }))
  }

  #source(entry: ShardEntry, file: BlobFile, expert: number, scratch: ScratchTensors | null = null): GraphSource {
    const { manifest } = this.#init.model
    const { stride, tensors } = manifest.expertLayout
    const start = (expert - entry.first) * stride
    const weights = blobWeights(file, manifest, tensors, { start, scratch })
    return {
      model: expertGraph(manifest.config, weights),
      folder: file.folder,
      provider: this.#init.provider,
      threads: this.#init.threads,
      // Weights of 16 bits are cast when the session is opened.
      isOptimal: manifest.quant.kind === 'q4' || manifest.quant.kind === 'q8',
    }
  }

  async #openExpert(entry: ShardEntry, file: BlobFile, expert: number, worker: EngineWorker, source: GraphSource): Promise<void> {
    await loading(file, worker.call({ op: 'open-expert', experts: this.#init.id, layer: entry.layer, expert, source }))
  }

  async #checkManyRows(entry: ShardEntry): Promise<string> {
    return await this.#check(entry, entry.first, this.#init.workers[this.workerOf(entry.first)]!, MANY_ROWS)
  }

  async #check(entry: ShardEntry, expert: number, worker: EngineWorker, rows: number): Promise<string> {
    const outputs = await worker.call({ op: 'check-expert', experts: this.#init.id, layer: entry.layer, expert, rows })
    return digestOf(outputs)
  }

  /**
   * In all workers at once; in each so few at a time that a run that comes in between hardly waits, and so many that the worker need not wait
   * while the next graph is made.
   */
  async #eachExpert(entry: ShardEntry, act: (expert: number, worker: EngineWorker) => Promise<void>): Promise<void> {
    const ends = await Promise.allSettled(
      this.#init.workers.flatMap((worker, index) => {
        const experts = Array.from({ length: entry.last - entry.first + 1 }, (_, i) => entry.first + i)
        const own = experts.filter((expert) => this.workerOf(expert) === index).values()
        return Array.from({ length: ACTS_IN_FLIGHT }, async () => {
          for (const expert of own) await act(expert, worker)
        })
      }),
    )
    for (const end of ends) if (end.status === 'rejected') throw end.reason
  }
}
