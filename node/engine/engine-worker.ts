import { Worker } from 'node:worker_threads'
import { MeshError } from '../../protocols/wire/errors.ts'
import type { SharedBlock } from './shared-blocks.ts'
import type { BlockRef, ResultOf, WorkerEnvelope, WorkerReply, WorkerRequest, WorkerResult } from './worker-messages.ts'

/** How long a worker may take to release its sessions before it is ended by force, in milliseconds. */
const STOP_TIMEOUT_MS = 5_000

/** A worker could not do what it was asked, and goes on. */
export class WorkerRequestError extends MeshError {
  override name = 'WorkerRequestError'
}

interface PendingCall {
  readonly resolve: (result: WorkerResult) => void
  readonly reject: (error: Error) => void
}

/** The main thread's end of one engine thread. */
export class EngineWorker {
  readonly #worker: Worker
  readonly #index: number
  readonly #pending = new Map<number, PendingCall>()
  readonly #knownBlocks = new Set<number>()
  readonly #exited: Promise<void>
  #nextId = 1
  #failure: MeshError | null = null
  #stopping: Promise<void> | null = null

  constructor(index: number) {
    this.#index = index
    this.#worker = new Worker(new URL('./worker.ts', import.meta.url), { name: `engine-${index}` })
    this.#worker.on('message', (reply: WorkerReply) => this.#settle(reply))
    this.#worker.on('error', (error) => this.#fail(`crashed: ${error instanceof Error ? error.message : String(error)}`))
    this.#worker.on('messageerror', (error) => this.#fail(`sent an unreadable message: ${error.message}`))
    this.#exited = new Promise((resolve) => {
      this.#worker.once('exit', (code) => {
        this.#fail(`ended with code ${code}`)
        resolve()
      })
    })
  }

  /** Whether it does what it is asked. */
  get isOpen(): boolean {
    return this.#failure === null && this.#stopping === null
  }

  /** Rejects with `WorkerRequestError`, or `MeshError` once the thread is gone. */
  call<Request extends WorkerRequest>(request: Request): Promise<ResultOf<Request>> {
    if (this.#stopping !== null) return Promise.reject(new MeshError('the engine is closed'))
    if (this.#failure !== null) return Promise.reject(this.#failure)
    return this.#send(request) as Promise<ResultOf<Request>>
  }

  /** Sends a request that needs no answer; ignored once the thread is gone. */
  post(request: WorkerRequest): void {
    if (this.#failure === null && this.#stopping === null) this.#deliver({ ...request, id: 0 })
  }

  /** How to name a block in the next request. */
  refer(block: SharedBlock): BlockRef {
    if (this.#knownBlocks.has(block.id)) return { block: block.id, memory: null }
    this.#knownBlocks.add(block.id)
    return { block: block.id, memory: block.memory }
  }

  forget(block: SharedBlock): void {
    if (this.#knownBlocks.delete(block.id)) this.post({ op: 'forget-block', block: block.id })
  }

  /** Finishes what was asked before, releases the sessions and ends the thread; by force after a deadline. Idempotent, never rejects. */
  stop(): Promise<void> {
    this.#stopping ??= this.#stop()
    return this.#stopping
  }

  async #stop(): Promise<void> {
    if (this.#failure === null) this.#send({ op: 'stop' }).catch(() => {})
    const force = setTimeout(() => void this.#worker.terminate(), STOP_TIMEOUT_MS)
    await this.#exited
    clearTimeout(force)
  }

  #send(request: WorkerRequest): Promise<WorkerResult> {
    return new Promise((resolve, reject) => {
      const id = this.#nextId++
      this.#pending.set(id, { resolve, reject })
      this.#deliver({ ...request, id })
    })
  }

  #deliver(envelope: WorkerEnvelope): void {
    this.#worker.postMessage(envelope, [])
  }

  #settle(reply: WorkerReply): void {
    const id = typeof reply === 'number' ? reply : reply.id
    const call = this.#pending.get(id)
    this.#pending.delete(id)
    if (typeof reply === 'number') call?.resolve(null)
    else if (reply.error === null) call?.resolve(reply.result)
    else call?.reject(new WorkerRequestError(reply.error))
  }

  #fail(what: string): void {
    this.#failure ??= new MeshError(`engine thread ${this.#index} ${what}; restart the node`)
    for (const call of this.#pending.values()) call.reject(this.#stopping === null ? this.#failure : new MeshError('the engine is closed'))
    this.#pending.clear()
  }
}
