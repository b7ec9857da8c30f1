/** Synchronises the records of two peers' ledgers over one stream; live records travel by gossip on {@link gossipTopic}. */
export const ID = '/skein/ledger/1'

/** What any peer enforces on any other; README.md gives the reasons in a table. */
export const LIMITS = Object.freeze({
  /** Bytes of one envelope: with its message header it fits one 64 KiB yamux frame. */
  maxEnvelopeBytes: 62 * 1024,
  /** UTF-8 bytes of a swarm id. */
  maxSwarmBytes: 64,
  /** Longest life that an author may claim for a record, in milliseconds: bounds what a vanished author leaves behind. */
  maxTtlMs: 3_600_000,
  /** Authors in one digest; also the most that a ledger keeps. */
  maxAuthors: 4096,
  /** Envelopes that one side sends in one sync; the next sync carries the rest. */
  maxSyncEnvelopes: 1024,
  /** Bytes that one side sends in one sync, all messages together. */
  maxSyncBytes: 8 * 1024 * 1024,
  /** Envelopes of one sync that may fail verification before the stream is given up. */
  maxInvalidEnvelopes: 8,
  /** Streams of this protocol that one connection may hold open. */
  maxInboundStreams: 2,
  /** Syncs that one node serves at the same time; further ones are told `busy`. */
  maxServedSyncs: 8,
})

/** Bytes of one digest entry at most: 8 of key, 8 of epoch, 5 of sequence, 4 of signature. */
const DIGEST_ENTRY_BYTES = 25

/** Length prefix of the largest message: a digest of {@link LIMITS} authors, or one envelope. */
export const MAX_MESSAGE_BYTES = Math.max(LIMITS.maxEnvelopeBytes + 16, LIMITS.maxAuthors * DIGEST_ENTRY_BYTES + LIMITS.maxSwarmBytes + 16)

export const DEFAULTS = Object.freeze({
  /** Whole sync, on either side. Enough for {@link LIMITS}.maxSyncBytes over 10 Mbit/s. */
  syncTimeoutMs: 10_000,
})

/** How a sync ended, as the serving side says it. */
export const Status = Object.freeze({
  ok: 100,
  busy: 200,
  wrongSwarm: 201,
  malformed: 400,
  tooLarge: 401,
  failed: 500,
} as const)

export type Status = (typeof Status)[keyof typeof Status]

/** The gossipsub topic of a swarm's live envelopes. */
export function gossipTopic(swarm: string): string {
  return `${ID}/${swarm}`
}
