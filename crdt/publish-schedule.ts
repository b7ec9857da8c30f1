import { LIMITS as WIRE_LIMITS } from '../protocols/ledger/protocol.ts'
import type { Topic } from './schema.ts'

/** Intervals in milliseconds; see {@link DEFAULTS}. */
export interface PublishTimes {
  readonly heartbeatMs: number
  readonly ttlMs: number
  readonly minPublishIntervalMs: number
  readonly statisticsIntervalMs: number
}

/** What the schedule asks of its ledger. */
export interface SwarmSize {
  /** Authors in the view. */
  readonly liveAuthors: () => number
  /** Bytes of this node's latest envelope. */
  readonly envelopeBytes: () => number
}

/** Topics of which peers should hear at once. */
const URGENT: ReadonlySet<Topic> = new Set(['profile', 'holdings', 'leaving'])

/**
 * Bytes per second that envelopes may bring to a node of a large swarm; about as many leave it. Every author takes an equal share, so who
 * states more states it more rarely. Keeps the ledger of 1,000 peers below 2 KB/s, sent and received together (scripts/bench/ledger.ts).
 */
const BYTES_PER_SECOND = 500
/** Times that gossip brings each envelope to a node (scripts/bench/ledger.ts). */
const COPIES = 2
/** What gossip, stream and encryption add to an envelope. */
const OVERHEAD_BYTES = 130
/** Swarms of fewer authors may spend more, in inverse proportion up to eight times as much: there news matter more than bytes. */
const LARGE_SWARM = 64
const MAX_SPENDING = 8

/** When the next envelope of the own record is due, and how long it is to live. */
export class PublishSchedule {
  readonly #times: PublishTimes
  readonly #size: SwarmSize
  #lastMs = 0
  #lastTtlMs = 0

  constructor(times: PublishTimes, size: SwarmSize) {
    this.#times = times
    this.#size = size
  }

  /** Life of an envelope made now. */
  ttlMs(): number {
    const stretch = this.#stretched(this.#times.heartbeatMs) / this.#times.heartbeatMs
    return Math.min(WIRE_LIMITS.maxTtlMs, Math.round(this.#times.ttlMs * stretch))
  }

  /** An envelope is made now; returns its ttl. */
  publishing(nowMs: number): number {
    this.#lastMs = nowMs
    this.#lastTtlMs = this.ttlMs()
    return this.#lastTtlMs
  }

  /** When the next envelope is due, given the topics that changed since the last one. */
  nextMs(unpublished: Iterable<Topic>): number {
    const { heartbeatMs, minPublishIntervalMs, statisticsIntervalMs } = this.#times
    // Half the ttl: a swarm that grew since the last envelope must not stretch the next one beyond that one's life.
    let interval = Math.min(this.#stretched(heartbeatMs), this.#lastTtlMs / 2)
    for (const topic of unpublished) {
      interval = Math.min(interval, URGENT.has(topic) ? minPublishIntervalMs : this.#stretched(statisticsIntervalMs))
    }
    return this.#lastMs + interval
  }

  #stretched(intervalMs: number): number {
    const authors = Math.max(1, this.#size.liveAuthors())
    const spending = Math.min(MAX_SPENDING, Math.max(1, LARGE_SWARM / authors))
    const bytes = (this.#size.envelopeBytes() + OVERHEAD_BYTES) * COPIES * authors
    return Math.max(intervalMs, (bytes / (BYTES_PER_SECOND * spending)) * 1000)
  }
}
