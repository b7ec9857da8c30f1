/** Constants of `/skein/blob/1`; the reasons stand in README.md. */

export const BLOB_PROTOCOL = '/skein/blob/1'

export const FrameKind = Object.freeze({ get: 1, range: 2 } as const)

export const BLOB_LIMITS = Object.freeze({
  /** Bytes of one range: with its headers it fits one 64 KiB yamux frame, so that a call waits behind one range at most. */
  maxRangeBytes: 60 * 1024,
  /** One frame, either way: a range and its headers. */
  maxFrameBytes: 60 * 1024 + 64,
  /** Requests one stream may have unanswered: 1.9 MB under way, enough for 100 Mbit/s over 150 ms. */
  maxRequestsInFlight: 32,
  /** Streams one peer may have open: one, and another while an old one ends. */
  maxStreamsPerPeer: 2,
  /** Streams a node serves at a time, over all peers; further requests are told `busy`. */
  maxServedStreams: 64,
  /** Longest wait that a `busy` may ask for, in milliseconds. */
  maxRetryAfterMs: 60_000,
  /** A request without an answer, in milliseconds: a range passes in it at 16 kbit/s. */
  requestTimeoutMs: 30_000,
  /** From the first byte of a request's frame to its last. */
  frameTimeoutMs: 10_000,
  /** Malformed requests on one stream before it ends. */
  maxMalformedRequests: 8,
  /** Wait for the last answers to leave when the other side has ended its own. */
  closeTimeoutMs: 5_000,
})

/** 1xx done, 2xx refused but well-formed, 4xx malformed, 5xx failed. */
export const Status = Object.freeze({
  ok: 100,
  busy: 200,
  notFound: 201,
  outOfRange: 202,
  malformed: 400,
  tooLarge: 401,
  failed: 500,
} as const)
export type StatusName = keyof typeof Status
