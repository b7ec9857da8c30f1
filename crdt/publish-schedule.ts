import { LIMITS as WIRE_LIMITS } from '../protocols/ledger/protocol.ts'
import { DEFAULTS } from './defaults.ts'
import type { Topic } from './schema.ts'

/** Intervals in milliseconds; see {@link DEFAULTS}. */
export interface PublishTimes {
  readonly heartbeatMs: number
  readonly ttlMs: number
  readonly minPublishIntervalMs: number
  readonly statisticsIntervalMs: number
}

/** Topics of which peers should hear at once. */
const URGENT: ReadonlySet<Topic> = new Set(['profile', 'holdings'])

/** When the next envelope of the own record is due, and how long it is to live. */
export class PublishSchedule {
  readonly #times: PublishTimes
  readonly #liveAuthors: () => number
  #lastMs = 0
  #lastTtlMs = 0

  constructor(times: PublishTimes, liveAuthors: () => number) {
    this.#times = times
    this.#liveAuthors = liveAuthors
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
    return Math.max(intervalMs, this.#liveAuthors() * DEFAULTS.authorIntervalMs)
  }
}
