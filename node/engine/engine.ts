/**
 * The port of the tensor engine: what the driver and the expert host need, and no word of networks.
 * Implemented over onnxruntime-node in worker threads (`createEngine`).
 */
import type { Provider } from './device.ts'
import type { ModelConfig } from '../model/manifest.ts'
import type { ModelPackage } from '../model/package.ts'
import type { KvType } from './kv-shape.ts'

/** Tokens of one sequence that advance together in a pass. */
export interface Segment {
  readonly cache: KvCache
  /** Token ids appended to the sequence, at least one. */
  readonly tokens: readonly number[]
}

/** Keys and values of one sequence. */
export interface KvCache {
  /** Tokens held. */
  readonly length: number
  /** Takes memory for `tokens` in all, which it may lose again before it holds them if others need it. Throws `KvFullError`. */
  reserve(tokens: number): void
  /** Forgets all tokens from `length` on. */
  truncate(length: number): void
  /**
   * Another sequence that begins with the first `length` tokens of this one and shares their memory; what either adds or forgets later
   * is its own. `expected` as in `createCache`. Throws `KvFullError`.
   */
  fork(length: number, expected?: number): KvCache
  /** Frees the memory; the cache can't be used afterwards. */
  close(): void
}

/** What the router of one layer decided for the n rows of a pass; views that are valid until the next call on the pass. */
export interface Routing {
  /** [n, hidden]: what the chosen experts are to be fed. */
  readonly x: Float32Array
  /** [n, k]: chosen experts. */
  readonly experts: Int32Array
  /** [n, k]: their weights. */
  readonly weights: Float32Array
}

/** A layer that a pass went through without its caller. */
export interface DoneLayer {
  readonly layer: number
  /** [n, k]: chosen experts. */
  readonly experts: Int32Array
  /** What they took, in microseconds. */
  readonly computeUs: number
}

/** How far a pass went by itself. */
export interface Advance {
  /** Layers whose experts have been added; dense ones, which have none, are left out. */
  readonly done: readonly DoneLayer[]
  /** What the router of the last layer decided when its experts are still to be added; null when they are not, or it is a dense one. */
  readonly routing: Routing | null
}

/** One walk of a batch of tokens through all layers. Rows are the segments' tokens in order. */
export interface TrunkPass {
  readonly rows: number
  /** The layer that is to be attended to next; as many as there are at the end. */
  readonly nextLayer: number
  /**
   * All of `layer` (0-based, in order) but its routed experts, after adding `moe` to the residual stream.
   * null for a dense layer, which asks nothing of experts.
   */
  attend(layer: number): Promise<Routing | null>
  /**
   * Attends to the next layer, and to those after it for as long as the experts that each router chooses can be added without leaving the
   * engine's thread: they are open in `experts`, and run where the trunk does. The bits are those of a walk layer by layer.
   */
  advance(experts: Experts): Promise<Advance>
  /** [rows, hidden]: the driver writes the weighted sum of the layer's experts here before the next call. Zero at the start and after each `attend`, so it may be added into. */
  readonly moe: Float32Array
  /** Logits of the given rows after the last layer: [rows.length, vocab]. */
  logits(rows: readonly number[]): Promise<Float32Array>
  /** Makes the segments' tokens part of their caches. A pass that is never committed leaves the caches as they were. */
  commit(): void
  /** Frees the pass's buffers; also needed when it failed. Idempotent. While a call is under way, the caches stay in the pass until it ends. */
  close(): void
}

/** Memory of keys and values. */
export interface KvUsage {
  readonly type: KvType
  /** Of one token, in all layers. */
  readonly tokenBytes: number
  /** Tokens of this model that the whole limit would hold. */
  readonly mostTokens: number
  /** Of all trunks of the engine together. */
  readonly usedBytes: number
  readonly limitBytes: number
}

export interface Trunk {
  readonly config: ModelConfig
  readonly kv: KvUsage
  /** `expected`: tokens that it will hold, as far as is known; a good guess keeps them together in memory. */
  createCache(expected?: number): KvCache
  /**
   * Throws `InvalidRequestError` when a segment would exceed `maxContext`, and `KvFullError` when there is no memory for its keys and values;
   * then nothing has changed.
   */
  beginPass(segments: readonly Segment[]): TrunkPass
  close(): Promise<void>
}

/**
 * Rows to run through experts of one layer. A pick is one (row, expert); picks are sorted by expert, then row,
 * and all sums are taken in that order, so that equal picks give equal bits wherever they run.
 */
export interface ExpertJob {
  readonly layer: number
  /** [rows, hidden] */
  readonly x: Float32Array
  readonly rows: number
  /** Row index of each pick. */
  readonly pickRow: Uint16Array
  /** Expert of each pick. */
  readonly pickExpert: Uint16Array
  /** Weight of each pick in the sum of its row; without it every pick's own output is wanted. */
  readonly pickWeight?: Float32Array
}

export interface Experts {
  /** Opens a shard (one session per expert); idempotent. Throws `ModelError` if the blob is missing or corrupt. */
  openShard(layer: number, first: number): Promise<void>
  closeShard(layer: number, first: number): Promise<void>
  has(layer: number, expert: number): boolean
  /**
   * The weighted sum of each row's picks, [rows, hidden], or of a job without weights each pick's output, [picks, hidden]; the caller's own.
   * All picked experts must be open.
   */
  run(job: ExpertJob): Promise<Float32Array>
  close(): Promise<void>
}

export interface Engine {
  openTrunk(model: ModelPackage): Promise<Trunk>
  openExperts(model: ModelPackage): Promise<Experts>
  close(): Promise<void>
}

export interface EngineInit {
  /** Threads that compute. */
  readonly threads: number
  /** What computes the weights of trunks and experts, see `chooseDevice`; `cpu` by default. */
  readonly provider?: Provider
  /**
   * What reads at most so much is computed in the thread of its caller: jobs, an expert's weights for each pick, and layers of passes of
   * one row, the layer's weights and the keys and values. Default 32 MiB.
   */
  readonly callerRunBytes?: number
  /** Keys and values; by default {@link KV_DEFAULTS}. */
  readonly kv?: KvInit
  /** Shards of at least this many bytes have their weights prepared in a file beside the blob (see `prepared-blob.ts`); defaults to 4 MiB. */
  readonly preparedFromBytes?: number
  /** Hears of what works less well than it should; by default a warning of the process. */
  readonly onWarning?: (message: string) => void
}

export interface KvInit {
  readonly type: KvType
  /** Bytes that all sequences of all trunks may hold together. */
  readonly limitBytes: number
}

export const KV_DEFAULTS: KvInit = Object.freeze({ type: 'f32', limitBytes: 2 * 2 ** 30 })
