import type { PrivateKey } from '@libp2p/interface'
import type { RoutedDelta } from './own-routing.ts'
import type { RejectionReason } from './rejection.ts'
import type { Topic, TopicValues } from './schema.ts'
import type { LedgerView } from './view.ts'

export interface LedgerComponents {
  /** The node's Ed25519 key: its peer id is the author. */
  readonly privateKey: PrivateKey
  /** Milliseconds since 1970. */
  readonly clock?: () => number
}

/** Times are in {@link DEFAULTS}. */
export interface LedgerInit {
  readonly swarm: string
  /** Where the newest envelopes are kept over restarts; without it they come from peers again. */
  readonly storeFile?: string
  readonly heartbeatMs?: number
  readonly ttlMs?: number
  readonly graceMs?: number
  readonly minPublishIntervalMs?: number
  readonly statisticsIntervalMs?: number
  readonly persistIntervalMs?: number
  /** Time in which the stated use of an expert falls by half, unless it is used again. */
  readonly heatHalfLifeMs?: number
}

export type ReceiveResult = 'applied' | 'known' | { readonly rejected: RejectionReason }

export interface LedgerStats {
  readonly received: number
  readonly applied: number
  readonly known: number
  readonly rejected: Readonly<Record<RejectionReason, number>>
  readonly published: number
  /** Authors remembered, and those of them in the view. */
  readonly authors: number
  readonly liveAuthors: number
  /** Times that the store could not be read or written, or was damaged. */
  readonly storeFailures: number
}

export interface LedgerEvents {
  /** These authors' parts of the view changed. */
  change: [authors: readonly string[]]
  /** An envelope of this node that peers should get. */
  publish: [envelope: Uint8Array]
  /** The store or the key failed; the ledger goes on in memory. */
  failure: [error: Error]
}

/** The replicated statistics and holdings of a swarm, as one node has them, and this node's own record. */
export interface Ledger {
  /** This node's peer id. */
  readonly author: string
  readonly swarm: string
  /** Reads the store and begins a new epoch of the own record. A damaged store is counted, not thrown. */
  start(): Promise<void>
  /** Writes the store and stops the timer; tells nobody: see {@link goodbye}. */
  stop(): Promise<void>
  /**
   * States a topic of the own record; routing counts are joined with the earlier ones, so they never fall.
   * Throws `InvalidMessageError` or `LimitExceededError` for a value that peers would refuse.
   */
  set<T extends Topic>(topic: T, value: TopicValues[T]): void
  /** Adds to the own routing counts of a model; packs all of them, so call it every few seconds, not every token. Throws as {@link set}. */
  addRouted(model: string, delta: RoutedDelta): void
  /** The own value of a topic, after {@link start} with what earlier runs counted. */
  own<T extends Topic>(topic: T): TopicValues[T] | null
  /** Takes this node out of every peer's view; returns the signed envelope, which is also published. The next {@link start} returns it. */
  goodbye(): Promise<Uint8Array>
  /** Verifies an envelope of any author and keeps it if it is the author's newest. Bad input never throws. */
  receive(envelope: Uint8Array): Promise<ReceiveResult>
  digest(): Uint8Array
  /** Envelopes that whoever made the digest lacks. Throws `InvalidMessageError` or `LimitExceededError` on a bad digest. */
  missing(digest: Uint8Array): Uint8Array[]
  view(): LedgerView
  stats(): LedgerStats
  /** Writes the store now. Throws what the file system throws. */
  flush(): Promise<void>
  /** Does what is due by the clock: publishes, expires, writes the store. The own timer calls it, and a simulation's clock may. */
  tick(): Promise<void>
  on<E extends keyof LedgerEvents>(event: E, listener: (...args: LedgerEvents[E]) => void): this
  off<E extends keyof LedgerEvents>(event: E, listener: (...args: LedgerEvents[E]) => void): this
}
