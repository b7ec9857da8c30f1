import { setImmediate as turn } from 'node:timers/promises'
import { MeshError } from '../../protocols/wire/errors.ts'
import { EngineSessions } from './engine-sessions.ts'
import type { SharedBlock } from './shared-blocks.ts'
import type { BlockRef, WorkerRequest } from './worker-messages.ts'

/** Where sessions run: a thread of the engine, or the thread of its caller. Requests are handled one after the other. */
export interface EngineLane {
  /** Resolves with the logits of a request that has some, else null. Rejects with `MeshError` once the lane is gone. */
  call(request: WorkerRequest): Promise<Float32Array | null>
  /** Sends a request that needs no answer; ignored once the lane is gone. */
  post(request: WorkerRequest): void
  /** How to name a block in the next request. */
  refer(block: SharedBlock): BlockRef
  forget(block: SharedBlock): void
  /** Finishes what was asked before and releases the sessions. Idempotent, never rejects. */
  stop(): Promise<void>
}

/** The thread of the caller, for runs that take less time than waking another thread does. */
export class CallerLane implements EngineLane {
  readonly #sessions = new EngineSessions()
  #stopping: Promise<void> | null = null

  call(request: WorkerRequest): Promise<Float32Array | null> {
    if (this.#stopping !== null) return Promise.reject(new MeshError('the engine is closed'))
    return this.#handle(request)
  }

  post(request: WorkerRequest): void {
    if (this.#stopping === null) this.#handle(request).catch(() => {})
  }

  refer(block: SharedBlock): BlockRef {
    return { block: block.id, memory: block.memory }
  }

  forget(block: SharedBlock): void {
    this.post({ op: 'forget-block', block: block.id })
  }

  stop(): Promise<void> {
    this.#stopping ??= this.#handle({ op: 'stop' }).then(
      () => {},
      () => {},
    )
    return this.#stopping
  }
  /** Not at once: what the caller asks of other machines goes out before this takes its thread. */
  async #handle(request: WorkerRequest): Promise<Float32Array | null> {
    await turn()
    return await this.#sessions.handle(request)
  }
}
