import type { ModelPackage } from '../model/package.ts'
import { MeshError } from '../../protocols/wire/errors.ts'
import { KV_DEFAULTS } from './engine.ts'
import type { Provider } from './device.ts'
import type { Engine, EngineInit, Experts, KvInit, Trunk } from './engine.ts'
import { EngineWorker } from './engine-worker.ts'
import { KvBudget } from './kv-blocks.ts'
import { OnnxExperts } from './onnx-experts.ts'
import { openOnnxTrunk } from './onnx-trunk.ts'
import type { LentTrunk } from './onnx-trunk.ts'
import { SharedBlocks } from './shared-blocks.ts'
import { shareThreads } from './shared-threads.ts'
import type { SessionThreads } from './worker-messages.ts'

/** Below this the copy that onnxruntime keeps in memory costs less than files and checks. */
const PREPARED_FROM_BYTES = 4 * 2 ** 20

/** Threads don't share the operators of an expert up to this size: it would take longer than it takes one of them. */
const TINY_EXPERT_BYTES = 2 ** 20
/** 8 experts of OLMoE-1B-7B: 3 ms at 10 GB/s. */
const CALLER_RUN_BYTES = 32 * 2 ** 20

/**
 * Starts an engine over onnxruntime-node: one worker whose operators `threads` threads share. Where threads can't be shared there are as
 * many workers, trunks on the first, experts divided over all. Jobs of a few rows run in the calling thread.
 * A worker that dies rejects what it was asked and everything after; the engine must then be closed and made anew.
 */
export function createEngine(init: EngineInit): Engine {
  // Since 1.30 onnxruntime reports usage to its maker and keeps a device id, a database and logs in the user's folders unless told not to.
  // It reads the process' own environment, which a worker can't change.
  process.env['ORT_DISABLE_TELEMETRY'] = '1'
  if (!Number.isInteger(init.threads) || init.threads < 1) throw new RangeError(`the engine needs at least one thread, not ${init.threads}`)
  return new OnnxEngine(init)
}

class OnnxEngine implements Engine {
  readonly #init: EngineInit
  readonly #provider: Provider
  readonly #threads: SessionThreads
  readonly #workers: readonly EngineWorker[]
  readonly #blocks: SharedBlocks
  readonly #kv: KvInit
  readonly #kvBudget: KvBudget
  /** What has borrowed of the workers. */
  readonly #borrowers = new Set<LentTrunk | OnnxExperts>()
  #nextId = 1
  #closing: Promise<void> | null = null

  constructor(init: EngineInit) {
    this.#kv = init.kv ?? KV_DEFAULTS
    this.#kvBudget = new KvBudget(this.#kv.limitBytes)
    this.#init = init
    this.#provider = init.provider ?? 'cpu'
    const whyNot = shareThreads(init.threads)
    this.#threads = whyNot === null ? 'shared' : init.threads
    this.#workers = Array.from({ length: whyNot === null ? 1 : init.threads }, (_, index) => new EngineWorker(index))
    this.#blocks = new SharedBlocks((block) => {
      for (const worker of this.#workers) worker.forget(block)
    })
  }

  async openTrunk(model: ModelPackage): Promise<Trunk> {
    this.#mustBeOpen()
    const kv = { type: this.#kv.type, budget: this.#kvBudget }
    const trunk = await openOnnxTrunk({
      id: this.#nextId++,
      model,
      worker: this.#workers[0]!,
      blocks: this.#blocks,
      kv,
      threads: this.#threads,
      provider: this.#provider,
      callerRunBytes: this.#init.callerRunBytes ?? CALLER_RUN_BYTES,
    })
    // It may have been closed since the worker's last answer.
    if (this.#closing !== null) trunk.release()
    return this.#borrowing(trunk)
  }

  async openExperts(model: ModelPackage): Promise<Experts> {
    this.#mustBeOpen()
    const { preparedFromBytes = PREPARED_FROM_BYTES, callerRunBytes = CALLER_RUN_BYTES, threads: poolThreads } = this.#init
    const isTiny = model.manifest.expertLayout.stride <= TINY_EXPERT_BYTES
    const experts = new OnnxExperts({
      id: this.#nextId++,
      model,
      workers: this.#workers,
      blocks: this.#blocks,
      preparedFromBytes,
      callerRunBytes,
      isTiny,
      warn: this.#init.onWarning ?? ((message) => process.emitWarning(message)),
      provider: this.#provider,
      // With threads of their own, the workers are the parallelism.
      threads: this.#threads === 'shared' && !isTiny ? 'shared' : 1,
      poolThreads,
    })
    return this.#borrowing(experts)
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  #borrowing<Borrower extends LentTrunk | OnnxExperts>(borrower: Borrower): Borrower {
    this.#borrowers.add(borrower)
    borrower.onRelease = () => this.#borrowers.delete(borrower)
    return borrower
  }

  async #close(): Promise<void> {
    // What is lent goes back before the workers release it.
    const failures: unknown[] = []
    for (const borrower of this.#borrowers) {
      try {
        borrower.release()
      } catch (error) {
        failures.push(error)
      }
    }
    await Promise.all(this.#workers.map((worker) => worker.stop()))
    if (failures.length > 0) throw failures[0]
  }

  #mustBeOpen(): void {
    if (this.#closing !== null) throw new MeshError('the engine is closed')
  }
}
