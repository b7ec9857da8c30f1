/** Constants of `/skein/membership/1`; the reasons stand in README.md. */

export const MEMBERSHIP_PROTOCOL = '/skein/membership/1'

export const MessageKind = Object.freeze({ hello: 1, challenge: 2, proof: 3, verdict: 4 } as const)

/** What a dialler shows beside its proof of the key. */
export const PapersKind = Object.freeze({ none: 0, credential: 1, claim: 2 } as const)

export const MEMBERSHIP_LIMITS = Object.freeze({
  /** Links between the founder and a member. */
  maxCredentialLinks: 32,
  /** One message: the longest credential, and room. */
  maxMessageBytes: 4096,
  /** The whole conversation, over a slow relay too. */
  timeoutMs: 15_000,
  /** Conversations one connection may have open. */
  maxStreams: 2,
})

/** 1xx admitted, 2xx refused but well-formed, 4xx malformed. */
export const Verdict = Object.freeze({
  member: 100,
  wrongKey: 200,
  notAdmitted: 201,
  expired: 202,
  usedUp: 203,
  askInviter: 204,
  malformed: 400,
} as const)
export type VerdictName = keyof typeof Verdict

export const NONCE_BYTES = 32
export const MAC_BYTES = 32
export const KEY_BYTES = 32
export const SIGNATURE_BYTES = 64
