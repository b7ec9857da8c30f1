import type { ModelPackage } from '../model/package.ts'
import { MeshError } from '../../protocols/wire/errors.ts'
import type { Engine, EngineInit, Experts, Trunk } from './engine.ts'
import { EngineWorker } from './engine-worker.ts'
import { OnnxExperts } from './onnx-experts.ts'
import { openOnnxTrunk } from './onnx-trunk.ts'
import { SharedBlocks } from './shared-blocks.ts'

/**
 * Starts an engine over onnxruntime-node: `threads` workers, trunks on the first, experts divided over all.
 * A worker that dies rejects what it was asked and everything after; the engine must then be closed and made anew.
 */
export function createEngine(init: EngineInit): Engine {
  // Since 1.30 onnxruntime reports usage to its maker and keeps a device id, a database and logs in the user's folders unless told not to.
  // It reads the process' own environment, which a worker can't change.
  process.env['ORT_DISABLE_TELEMETRY'] = '1'
  if (!Number.isInteger(init.threads) || init.threads < 1) throw new RangeError(`the engine needs at least one thread, not ${init.threads}`)
  return new OnnxEngine(init.threads)
}

class OnnxEngine implements Engine {
  readonly #workers: readonly EngineWorker[]
  readonly #blocks: SharedBlocks
  #nextId = 1
  #closing: Promise<void> | null = null

  constructor(threads: number) {
    this.#workers = Array.from({ length: threads }, (_, index) => new EngineWorker(index))
    this.#blocks = new SharedBlocks((block) => {
      for (const worker of this.#workers) worker.forget(block)
    })
  }

  async openTrunk(model: ModelPackage): Promise<Trunk> {
    this.#mustBeOpen()
    return openOnnxTrunk({ id: this.#nextId++, model, worker: this.#workers[0]!, blocks: this.#blocks })
  }

  async openExperts(model: ModelPackage): Promise<Experts> {
    this.#mustBeOpen()
    return new OnnxExperts({ id: this.#nextId++, model, workers: this.#workers, blocks: this.#blocks })
  }

  close(): Promise<void> {
    this.#closing ??= Promise.all(this.#workers.map((worker) => worker.stop())).then(() => {})
    return this.#closing
  }

  #mustBeOpen(): void {
    if (this.#closing !== null) throw new MeshError('the engine is closed')
  }
}
