import { MeshError } from '../../protocols/wire/errors.ts'
import { ModelError } from '../errors.ts'
import type { ShardEntry } from '../model/manifest.ts'
import { findBlob } from './blob-file.ts'
import { weightedSum } from './combine.ts'
import type { ExpertJob, Experts } from './engine.ts'
import type { EngineWorker } from './engine-worker.ts'
import { ExpertSessions } from './expert-sessions.ts'
import { jobBytes, jobMemory } from './job-memory.ts'
import { MAX_PICK_ROWS } from './picks.ts'
import { ShardLoader } from './shard-loader.ts'
import type { ShardLoaderInit } from './shard-loader.ts'
import type { SharedBlocks } from './shared-blocks.ts'

interface OnnxExpertsInit extends ShardLoaderInit {
  readonly blocks: SharedBlocks
  /** How many all sessions share, where they do. */
  readonly poolThreads: number
  /** Jobs that read at most so much of weights run in the thread of their caller, where it can borrow sessions. */
  readonly callerRunBytes: number
  /** Whether an expert takes no longer than waking a thread. */
  readonly isTiny: boolean
}

interface OpenShard {
  readonly entry: ShardEntry
  readonly opened: Promise<void>
}

/** The experts of one model, divided over the workers by expert number. */
export class OnnxExperts implements Experts {
  readonly #init: OnnxExpertsInit
  readonly #loader: ShardLoader
  readonly #hidden: number
  /** What this thread has borrowed of the workers' sessions. */
  readonly #borrowed: ExpertSessions
  /** By shard blob. */
  readonly #shards = new Map<string, OpenShard>()
  /** By layer: 1 for each expert that can be run. */
  readonly #open: Uint8Array[]
  #hasBorrowed = false
  /** Hears once that everything borrowed was given back. */
  onRelease: (() => void) | null = null
  #closed = false

  constructor(init: OnnxExpertsInit) {
    const { config } = init.model.manifest
    this.#init = init
    this.#loader = new ShardLoader(init)
    this.#hidden = config.hiddenSize
    this.#open = Array.from({ length: config.layers }, () => new Uint8Array(config.experts))
    const threads = init.threads === 'shared' ? init.poolThreads : 1
    this.#borrowed = new ExpertSessions(config.hiddenSize, threads)
    for (const worker of init.workers) worker.post({ op: 'open-experts', experts: init.id, hidden: config.hiddenSize, threads })
  }

  openShard(layer: number, first: number): Promise<void> {
    if (this.#closed) return Promise.reject(new MeshError('the experts are closed'))
    let entry: ShardEntry
    try {
      entry = this.#entry(layer, first)
    } catch (error) {
      return Promise.reject(error)
    }
    const known = this.#shards.get(entry.cid)
    if (known !== undefined) return known.opened
    const opened = this.#load(entry).catch(async (error: unknown) => {
      await this.#unload(entry)
      this.#shards.delete(entry.cid)
      throw error
    })
    this.#shards.set(entry.cid, { entry, opened })
    return opened
  }

  async closeShard(layer: number, first: number): Promise<void> {
    const entry = this.#entry(layer, first)
    const shard = this.#shards.get(entry.cid)
    if (shard === undefined) return
    await shard.opened.catch(() => {})
    if (this.#shards.get(entry.cid) !== shard) return
    this.#shards.delete(entry.cid)
    await this.#unload(entry)
  }

  has(layer: number, expert: number): boolean {
    return this.#open[layer]?.[expert] === 1
  }

  /**
   * Their number in the worker when all of them are there, else null: also for tiny ones that this thread has borrowed, so that queries that
   * are answered together have the trunk computed by one thread and the experts by the other.
   */
  within(worker: EngineWorker): number | null {
    const { workers, id, isTiny } = this.#init
    return !this.#closed && workers.length === 1 && workers[0] === worker && !(isTiny && this.#hasBorrowed) ? id : null
  }

  async run(job: ExpertJob): Promise<Float32Array> {
    if (this.#closed) throw new MeshError('the experts are closed')
    const { workers, blocks, id } = this.#init
    const busy = this.#checkJob(job)
    if (this.#isForCaller(job)) return this.#borrowed.runAtOnce(job)
    const picks = job.pickRow.length
    const block = blocks.take(jobBytes(job.rows, picks, this.#hidden))
    const memory = jobMemory(block.memory, job.rows, picks, this.#hidden)
    memory.x.set(job.x)
    memory.pickRow.set(job.pickRow)
    memory.pickExpert.set(job.pickExpert)
    const calls: Promise<unknown>[] = []
    for (const [index, worker] of workers.entries()) {
      if (busy[index] !== 1) continue
      calls.push(worker.call({ op: 'run-experts', experts: id, layer: job.layer, rows: job.rows, picks, ...worker.refer(block) }))
    }
    const ends = await Promise.allSettled(calls)
    try {
      for (const end of ends) if (end.status === 'rejected') throw end.reason
      return resultOf(job, memory.outputs, this.#hidden)
    } finally {
      blocks.give(block)
    }
  }

  /** Gives back at once what this thread has borrowed of the workers; nothing can be run any more. Idempotent. */
  release(): void {
    if (this.#closed) return
    this.#closed = true
    for (const layer of this.#open) layer.fill(0)
    this.#borrowed.close()
    this.onRelease?.()
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.release()
    await Promise.allSettled([...this.#shards.values()].map((shard) => shard.opened))
    this.#shards.clear()
    await Promise.allSettled(this.#init.workers.map((worker) => worker.call({ op: 'close-experts', experts: this.#init.id })))
  }

  #entry(layer: number, first: number): ShardEntry {
    const matches = (blob: ShardEntry): boolean => blob.layer === layer && blob.first === first
    return findBlob(this.#init.model.manifest, 'experts', matches, `shard of layer ${layer} that begins with expert ${first}`)
  }

  async #load(entry: ShardEntry): Promise<void> {
    await this.#loader.open(entry)
    await this.#borrow(entry)
    if (this.#closed) throw new MeshError('the experts are closed')
    this.#open[entry.layer]!.fill(1, entry.first, entry.last + 1)
  }

  async #borrow({ layer, first, last }: ShardEntry): Promise<void> {
    const { workers, id, callerRunBytes } = this.#init
    if (callerRunBytes === 0) return
    for (const lent of await Promise.all(workers.map((worker) => worker.call({ op: 'lend-experts', experts: id, layer, first, last })))) {
      for (const [i, pointer] of (lent ?? []).entries()) {
        if (pointer === 0n || this.#closed) continue
        this.#borrowed.borrow(layer, first + i, pointer)
        this.#hasBorrowed = true
      }
    }
  }

  async #unload(entry: ShardEntry): Promise<void> {
    this.#open[entry.layer]!.fill(0, entry.first, entry.last + 1)
    for (let expert = entry.first; expert <= entry.last; expert++) this.#borrowed.closeExpert(entry.layer, expert)
    await this.#loader.close(entry)
  }

  /** Whether it takes so little time that waking another thread and being woken by it would be felt. */
  #isForCaller({ layer, pickExpert }: ExpertJob): boolean {
    const { model, workers, callerRunBytes } = this.#init
    if (pickExpert.length * model.manifest.expertLayout.stride > callerRunBytes) return false
    return workers.every((worker) => worker.isOpen) && this.#borrowed.hasAll(layer, pickExpert)
  }

  /** Checks the job and tells which workers have a part in it: 1 for each that has. */
  #checkJob(job: ExpertJob): Uint8Array {
    const { layer, rows, x, pickRow, pickExpert, pickWeight } = job
    const picks = pickRow.length
    if (pickWeight !== undefined && pickWeight.length !== picks) throw new RangeError(`${pickWeight.length} weights for ${picks} picks`)
    if (rows < 1 || rows > MAX_PICK_ROWS || picks < 1 || pickExpert.length !== picks || x.length !== rows * this.#hidden) {
      throw new RangeError(
        `a job of ${rows} rows, ${x.length} numbers, ${picks} pick rows and ${pickExpert.length} pick experts does not fit together`,
      )
    }
    const busy = new Uint8Array(this.#init.workers.length)
    for (let pick = 0; pick < picks; pick++) {
      const expert = pickExpert[pick]!
      const row = pickRow[pick]!
      if (row >= rows) throw new RangeError(`pick ${pick} names row ${row} of ${rows}`)
      if (!this.has(layer, expert)) throw new ModelError(`expert ${expert} of layer ${layer} is not open; open its shard first`)
      if (pick > 0 && (expert < pickExpert[pick - 1]! || (expert === pickExpert[pick - 1]! && row <= pickRow[pick - 1]!))) {
        throw new RangeError(`pick ${pick} is out of order: picks go by expert, then row, each once`)
      }
      busy[this.#loader.workerOf(expert)] = 1
    }
    return busy
  }
}

/** Own memory, since `outputs` is lent. The picks' outputs are several times as large as the sums: copying them would keep the garbage collector busy. */
function resultOf({ rows, pickRow, pickWeight }: ExpertJob, outputs: Float32Array, width: number): Float32Array {
  if (pickWeight === undefined) return outputs.slice()
  const into = new Float32Array(rows * width)
  weightedSum({ rows, width, pickRow, pickWeight, outputs, into })
  return into
}
