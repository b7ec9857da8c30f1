/** Times of a ledger; every node may choose its own, since each envelope says how long it lives. */
export const DEFAULTS = Object.freeze({
  /** An author that changed nothing says so this often. */
  heartbeatMs: 10_000,
  /** Life of a record: three heartbeats, so that two may be lost. */
  ttlMs: 30_000,
  /** What a record may live beyond its ttl: gossip through a few hops on busy machines. */
  graceMs: 5_000,
  /** `profile`, `holdings` and `leaving` are told at once, but no more often than this. */
  minPublishIntervalMs: 250,
  /** `routing`, `service` and `observed` change with every token; they are told this often. Large swarms stretch this and the heartbeat, see `publish-schedule.ts`. */
  statisticsIntervalMs: 5_000,
  /** Between two writes of the store file, if anything changed. */
  persistIntervalMs: 30_000,
  /** Long enough that a pause does not forget what is popular, short enough that placement follows a day's course. */
  heatHalfLifeMs: 3_600_000,
})

/**
 * How far two nodes' clocks may be apart: an hour, which is what a wrong time zone or a forgotten summer time makes, and five minutes. A
 * record from further in the future is refused; one from the past is kept until its ttl and this have passed by its author's clock.
 */
export const MAX_CLOCK_SKEW_MS = 65 * 60_000

/** A ledger without a record of its own doesn't tell peers of its newest record for so long, so that they send it an earlier life's. */
export const RECOVERY_MS = 10_000

/** Longest sleep between two looks at what is due: bounds how late an author's end is noticed. */
export const MAX_TICK_MS = 1_000
