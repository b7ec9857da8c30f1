import type { ModelConfig, TensorEntry } from '../model/manifest.ts'
import type { Provider } from './device.ts'
import type { KvMemory } from './kv-pool.ts'
import type { KvType } from './kv-shape.ts'

/** Threads that share each operator of a session: so many of its own, or those that all sessions of the process share (`shared-threads.ts`). */
export type SessionThreads = number | 'shared'

/** A graph and the folder in which its weight files lie. */
export interface GraphSource {
  readonly model: Uint8Array
  readonly folder: string
  /** Where the optimised model `<name>.onnx` and its weights with their packed forms `<name>.bin` are to be saved. */
  readonly saveTo?: { readonly folder: string; readonly name: string }
  /** What computes; the processor by default, and in any case for operators that the provider lacks. */
  readonly provider?: Provider
  /** What computes each operator; one thread by default. */
  readonly threads?: SessionThreads
  /** Nothing in it can be folded or fused: trying to takes time, and what tries stays in memory. */
  readonly isOptimal?: boolean
}

/** Where the embedding table lies. */
export interface EmbeddingSource {
  readonly path: string
  readonly tensor: TensorEntry
}

/** Shared memory by number; the buffer itself travels only with its first use by a worker. */
export interface BlockRef {
  readonly block: number
  readonly memory: SharedArrayBuffer | null
}

/** How a trunk keeps keys and values. */
export interface KvLayout {
  readonly type: KvType
  /** What computes attention. */
  readonly threads: SessionThreads
}

/** One sequence of a pass: `tokens` follow the `past` tokens that its blocks hold. */
export interface SegmentStart {
  readonly past: number
  readonly tokens: readonly number[]
  /** Block of each run of positions, up to that of the last of `tokens`. */
  readonly table: Int32Array
}

export interface PassStart extends BlockRef {
  readonly segments: readonly SegmentStart[]
}

/** Rows and picks of one layer in shared memory (see `job-memory.ts`). */
export interface ExpertRun extends BlockRef {
  readonly experts: number
  readonly layer: number
  readonly rows: number
  readonly picks: number
}

/** What the main thread asks of a worker; handled one after the other, in order. */
export type WorkerRequest =
  | {
      readonly op: 'open-trunk'
      readonly trunk: number
      readonly config: ModelConfig
      readonly embedding: EmbeddingSource
      readonly kv: KvLayout
    }
  | {
      readonly op: 'open-layer'
      readonly trunk: number
      readonly layer: number
      readonly before: GraphSource
      readonly after: GraphSource
      readonly shared: GraphSource | null
      readonly kv: KvMemory
    }
  | { readonly op: 'open-head'; readonly trunk: number; readonly source: GraphSource }
  /** Answered by where the sessions of its layers are (see `TrunkSessions.pointers`); null where other threads can't have them. */
  | { readonly op: 'lend-trunk'; readonly trunk: number }
  | { readonly op: 'close-trunk'; readonly trunk: number }
  /** `start` comes with the pass's first layer. */
  | { readonly op: 'attend'; readonly trunk: number; readonly pass: number; readonly layer: number; readonly start: PassStart | null }
  /** Layers from `layer` on, with those experts, until one is not here. */
  | {
      readonly op: 'advance'
      readonly trunk: number
      readonly pass: number
      readonly layer: number
      readonly experts: number
      readonly start: PassStart | null
    }
  | { readonly op: 'logits'; readonly trunk: number; readonly pass: number; readonly rows: readonly number[] }
  /** Of rows of a pass that went through the layers in another thread. */
  | { readonly op: 'head'; readonly trunk: number; readonly last: LastRows }
  | { readonly op: 'end-pass'; readonly trunk: number; readonly pass: number }
  /** `threads`: how many all sessions share, 1 where they don't. */
  | { readonly op: 'open-experts'; readonly experts: number; readonly hidden: number; readonly threads: number }
  | {
      readonly op: 'open-expert'
      readonly experts: number
      readonly layer: number
      readonly expert: number
      readonly source: GraphSource
    }
  /** Answered by what the expert makes of a fixed input of so many rows. */
  | { readonly op: 'check-expert'; readonly experts: number; readonly layer: number; readonly expert: number; readonly rows: number }
  /** Answered by where their sessions are, 0 for those that are not here; null where other threads can't have them. */
  | { readonly op: 'lend-experts'; readonly experts: number; readonly layer: number; readonly first: number; readonly last: number }
  | { readonly op: 'close-expert'; readonly experts: number; readonly layer: number; readonly expert: number }
  | { readonly op: 'close-experts'; readonly experts: number }
  | ({ readonly op: 'run-experts' } & ExpertRun)
  | { readonly op: 'forget-block'; readonly block: number }
  /** Releases everything; the thread ends by itself. */
  | { readonly op: 'stop' }

/** A request and its number; `id` 0 asks for no answer. Flat, since cloning it is part of every hop. */
export type WorkerEnvelope = WorkerRequest & { readonly id: number }

/** Some rows of a pass after its last layer. */
export interface LastRows {
  readonly rows: number
  /** [rows, hidden]: the residual stream, and the last layer's experts, which are still to be added to it */
  readonly h: Float32Array
  readonly moe: Float32Array
}

export type WorkerResult = Float32Array | BigUint64Array | null

/** What a request is answered with when all goes well. */
export type ResultOf<Request extends WorkerRequest> = Request['op'] extends 'logits' | 'head' | 'check-expert'
  ? Float32Array
  : Request['op'] extends 'lend-experts' | 'lend-trunk'
    ? BigUint64Array | null
    : null

/** The bare number says that all went well and there is no result. */
export type WorkerReply =
  | number
  | { readonly id: number; readonly error: string; readonly result: null }
  | { readonly id: number; readonly error: null; readonly result: NonNullable<WorkerResult> }
