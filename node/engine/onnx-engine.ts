import type { ModelPackage } from '../model/package.ts'
import { MeshError } from '../../protocols/wire/errors.ts'
import { KV_DEFAULTS } from './engine.ts'
import type { Provider } from './device.ts'
import type { Engine, EngineInit, Experts, KvInit, Trunk } from './engine.ts'
import { CallerLane } from './engine-lane.ts'
import type { EngineLane } from './engine-lane.ts'
import { EngineWorker } from './engine-worker.ts'
import { KvBudget } from './kv-blocks.ts'
import { OnnxExperts } from './onnx-experts.ts'
import { openOnnxTrunk } from './onnx-trunk.ts'
import { SharedBlocks } from './shared-blocks.ts'
import { shareThreads } from './shared-threads.ts'
import type { SessionThreads } from './worker-messages.ts'

/** Below this the copy that onnxruntime keeps in memory costs less than files and checks. */
const PREPARED_FROM_BYTES = 4 * 2 ** 20

/**
 * A row takes an expert of this size less time than waking a worker and being woken by it. With the embedded model (0.6 MB per expert)
 * hosts that compute in the thread of their network take 12 to 18 % off the time per token of a swarm on two cores.
 */
const CALLER_EXPERT_BYTES = 1024 * 1024

/**
 * Starts an engine over onnxruntime-node: one worker whose operators `threads` threads share. Where threads can't be shared there are as
 * many workers, trunks on the first, experts divided over all. Tiny experts run in the calling thread.
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
  readonly #callerExpertBytes: number
  readonly #caller = new CallerLane()
  readonly #blocks: SharedBlocks
  readonly #kv: KvInit
  readonly #kvBudget: KvBudget
  #nextId = 1
  #closing: Promise<void> | null = null

  constructor(init: EngineInit) {
    this.#kv = init.kv ?? KV_DEFAULTS
    this.#kvBudget = new KvBudget(this.#kv.limitBytes)
    this.#init = init
    this.#provider = init.provider ?? 'cpu'
    this.#callerExpertBytes = init.callerExpertBytes ?? CALLER_EXPERT_BYTES
    const whyNot = shareThreads(init.threads)
    this.#threads = whyNot === null ? 'shared' : init.threads
    this.#workers = Array.from({ length: whyNot === null ? 1 : init.threads }, (_, index) => new EngineWorker(index))
    this.#blocks = new SharedBlocks((block) => {
      for (const lane of this.#lanes()) lane.forget(block)
    })
  }

  async openTrunk(model: ModelPackage): Promise<Trunk> {
    this.#mustBeOpen()
    const kv = { type: this.#kv.type, budget: this.#kvBudget }
    return openOnnxTrunk({
      id: this.#nextId++,
      model,
      worker: this.#workers[0]!,
      blocks: this.#blocks,
      kv,
      threads: this.#threads,
      provider: this.#provider,
    })
  }

  async openExperts(model: ModelPackage): Promise<Experts> {
    this.#mustBeOpen()
    const isTiny = model.manifest.expertLayout.stride <= this.#callerExpertBytes
    const { preparedFromBytes = PREPARED_FROM_BYTES, onWarning: warn = (message) => process.emitWarning(message) } = this.#init
    const lanes = isTiny ? [this.#caller] : this.#workers
    // With threads of their own, the workers are the parallelism.
    const threads = this.#threads === 'shared' && !isTiny ? 'shared' : 1
    return new OnnxExperts({
      id: this.#nextId++,
      model,
      lanes,
      blocks: this.#blocks,
      preparedFromBytes,
      warn,
      provider: this.#provider,
      threads,
      poolThreads: this.#init.threads,
    })
  }

  close(): Promise<void> {
    this.#closing ??= Promise.all(this.#lanes().map((lane) => lane.stop())).then(() => {})
    return this.#closing
  }

  #lanes(): readonly EngineLane[] {
    return [...this.#workers, this.#caller]
  }

  #mustBeOpen(): void {
    if (this.#closing !== null) throw new MeshError('the engine is closed')
  }
}
