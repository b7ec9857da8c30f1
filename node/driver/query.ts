/** One query: what is asked of the driver, and what it tells while answering. */
import type { SamplerOptions } from '../engine/sampler.ts'

export interface ChatMessage {
  readonly role: string
  readonly content: string
}

export type Sampling = SamplerOptions

/** What a row of numbers is on the wire. */
export type WireType = 'f32' | 'f16' | 'i8'
/** Who sums a token's experts: the host (one row back per token) or the driver in expert order (one row per expert; bit-equal whatever the split). */
export type Combine = 'host' | 'driver'

export interface QueryRequest {
  /** Friendly name or CID. */
  readonly model: string
  readonly input:
    | { readonly kind: 'chat'; readonly messages: readonly ChatMessage[] }
    | { readonly kind: 'text'; readonly text: string }
    | { readonly kind: 'tokens'; readonly ids: readonly number[] }
  /** null: up to the end of the context. */
  readonly maxTokens: number | null
  /** Fields left out fall back to the model's generation defaults, then to the driver's; a missing seed is drawn at random. */
  readonly sampling: Partial<Sampling>
  readonly stop: readonly string[]
  /** How many alternatives to report beside each token's log-probability; null for none at all. */
  readonly logprobs: number | null
  readonly wire?: WireType
  readonly combine?: Combine
  readonly signal?: AbortSignal
}

export interface TokenLogprob {
  readonly id: number
  /** The token's own text; may be an incomplete UTF-8 sequence shown as U+FFFD. */
  readonly text: string
  readonly logprob: number
}

/** What one host did for a query. */
export interface HostShare {
  /** Peer id; the driver's own is included when it ran experts itself. */
  readonly peer: string
  readonly local: boolean
  readonly calls: number
  readonly rows: number
  readonly layers: readonly number[]
}

/** How the answer came about: the `skein` object of a response. */
export interface QueryReport {
  /** No expert was dropped, replaced or stale. */
  readonly exact: boolean
  readonly wire: WireType
  readonly combine: Combine
  readonly seed: number
  /** Walks through all layers. */
  readonly passes: number
  /** Prompt tokens that an earlier query with the same beginning had computed. */
  readonly cachedTokens: number
  readonly calls: { readonly local: number; readonly remote: number; readonly retried: number }
  readonly bytes: { readonly sent: number; readonly received: number }
  readonly timeMs: { readonly prompt: number; readonly decode: number }
  /** What the mesh adds to a layer of a decode pass: from dispatch to the combined rows, less the slowest host's compute. null without remote calls. */
  readonly meshUs: { readonly p50: number; readonly p95: number } | null
  /** (token, expert) pairs computed, and those of them with experts that this node keeps for its own queries. */
  readonly expertCache: { readonly hits: number; readonly picks: number }
  readonly hosts: readonly HostShare[]
}

export type QueryEvent =
  /** First: the prompt is tokenized and accepted. */
  | { readonly kind: 'start'; readonly model: string; readonly promptTokens: number }
  /** Text may be empty while a UTF-8 sequence or a possible stop string is incomplete. `tokens` are the ids it accounts for. */
  | {
      readonly kind: 'text'
      readonly text: string
      readonly tokens: readonly number[]
      readonly logprobs: readonly (TokenLogprob & { readonly top: readonly TokenLogprob[] })[]
    }
  | { readonly kind: 'end'; readonly finishReason: 'stop' | 'length'; readonly completionTokens: number; readonly report: QueryReport }

export interface QueryService {
  /**
   * Answers a query. Ends early by breaking out of the loop or by `signal`.
   * Throws `ModelMissingError`, `InvalidRequestError` (bad or too long prompt), `NoRouteError`, `BusyError`, or `signal.reason`.
   */
  answer(request: QueryRequest): AsyncIterable<QueryEvent>
}
