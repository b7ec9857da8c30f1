/** Two peers that are linked through a relay agree when and whereto to send, so that their routers let both in. */
export const PUNCH_PROTOCOL = '/skein/punch/1'

/** What any peer enforces on any other; README.md gives the reasons in a table. */
export const PUNCH_LIMITS = Object.freeze({
  /** Bytes of one message, without its length prefix. */
  maxMessageBytes: 512,
  /** Endpoints that one side may name per transport. */
  maxEndpoints: 8,
  /** Reflectors that one peer may name. */
  maxReflectors: 8,
  /** Streams of this protocol that one connection may hold open. */
  maxInboundStreams: 4,
  /** From the first to the last message of an exchange, in milliseconds. */
  exchangeTimeoutMs: 10_000,
  /** Punches that one node takes part in at the same time; further ones are told `busy`. */
  maxAttempts: 8,
  /** Least time between two offers of one peer, in milliseconds. */
  minOfferIntervalMs: 1_000,
  /** Random ports that one attempt may probe: what a lying peer can aim at somebody else's address. */
  maxRandomProbes: 8_192,
})

/** Drawn by the side that offers; proves on the punched path that a packet comes from the peer on the stream. */
export const TOKEN_BYTES = 16

/** How the router in front of a socket maps it. */
export const Mapping = Object.freeze({
  /** The transport is not offered. */
  none: 0,
  /** One public endpoint for all destinations. */
  independent: 1,
  /** A new public port for each destination. */
  dependent: 2,
} as const)

export type MappingKind = keyof typeof Mapping

/** Why an offer was refused. */
export const Status = Object.freeze({ busy: 200, off: 201, malformed: 400, failed: 500 } as const)

export const MessageKind = Object.freeze({ ask: 1, reflectors: 2, offer: 3, answer: 4, go: 5, refusal: 6 } as const)

export type Transport = 'udp' | 'tcp'

/** Where a socket can be written to. */
export interface Endpoint {
  /** IPv4 or IPv6 address in its usual text form. */
  readonly address: string
  readonly port: number
}

/** One side's sockets of one transport. */
export interface Reach {
  readonly mapping: MappingKind
  readonly endpoints: readonly Endpoint[]
}

/** What one side lets the other know of its sockets. */
export interface PunchSide {
  readonly udp: Reach
  readonly tcp: Reach
}

/** A port on which a peer tells others how it sees them; its address is that of the peer. */
export interface Reflector {
  readonly transport: Transport
  readonly port: number
}

/** A side that does not take part with a transport. */
export const NO_REACH: Reach = Object.freeze({ mapping: 'none', endpoints: [] })
