/** Constants of `/skein/expert/1`; the reasons stand in README.md. */

export const EXPERT_PROTOCOL = '/skein/expert/1'

/** Compatible changes count this up. */
export const EXPERT_REVISION = 1

export const FrameKind = Object.freeze({ hello: 1, call: 2, reply: 3, cancel: 4 } as const)

export const EXPERT_LIMITS = Object.freeze({
  /** One frame, either way: twice what Skein's driver lets a host send back for a layer. */
  maxFrameBytes: 16 * 1024 * 1024,
  /** Streams one peer may have open to a host: one, and another while an old one ends. */
  maxStreamsPerPeer: 2,
  /** Rows of one call. */
  maxRows: 1024,
  /** Numbers of one row: twice the widest model known. */
  maxWidth: 16_384,
  /** (row, expert) pairs of one call. */
  maxPicks: 16_384,
  /** Calls a driver may have unanswered on one stream, as a host grants by default. */
  maxCallsInFlight: 128,
  /** Longest time a driver may ask a host to spend on a call. */
  maxDeadlineMs: 120_000,
  /** Wait for a host's hello after the stream is open. */
  helloTimeoutMs: 10_000,
  /** From the first byte of a call's frame to its last: no call lives longer. */
  frameTimeoutMs: 120_000,
  /** Malformed calls on one stream before it ends. */
  maxMalformedCalls: 16,
  /** Wait for the last replies to leave when a driver has ended its side. */
  closeTimeoutMs: 5_000,
})

/** 1xx done, 2xx refused but well-formed, 4xx malformed, 5xx failed. */
export const Status = Object.freeze({
  ok: 100,
  busy: 200,
  notHeld: 201,
  cancelled: 202,
  deadline: 203,
  malformed: 400,
  tooLarge: 401,
  failed: 500,
} as const)
export type StatusName = keyof typeof Status

/** Urgency of a call; hosts serve lower numbers first. */
export const Priority = Object.freeze({ decode: 0, prefill: 1, background: 2 } as const)
export type PriorityLevel = (typeof Priority)[keyof typeof Priority]
