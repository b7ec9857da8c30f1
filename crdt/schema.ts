import { createHash } from 'node:crypto'
import type { Sketch } from './latency-sketch.ts'

/** The only root type of an author's document: a Y.Map from topic to packed bytes. */
export const ROOT = 'skein'

/** What an author may state about itself. */
export interface Profile {
  readonly name: string
  readonly version: string
  /** Only reachable through a relay. */
  readonly relayed: boolean
  /** Bytes of experts that it takes up by itself where the swarm needs them (`--host auto`); without it, it holds what it was told to. */
  readonly budgetBytes?: number
}

/**
 * Model id (CID of its manifest) → one bitmap per layer: bit `expert % 8` of byte `expert >> 3` is set when the author serves the
 * expert. Bitmaps may be shorter than the layer has experts, and layers at the end may be missing.
 */
export type Holdings = ReadonlyMap<string, readonly Uint8Array[]>

/** How many tokens this author's drivers have routed to each expert, ever: a count never falls. */
export interface RoutingCounts {
  readonly layers: number
  readonly experts: number
  /** [layers * experts], row-major; whole numbers up to 2^53 - 1. */
  readonly counts: ArrayLike<number>
}

/**
 * How much this author's drivers use each expert of late, in tokens per second, decayed exponentially. A code stands for a share of
 * `peak`; see `rates.ts`.
 */
export interface Heat {
  /** When the rates were as they say, milliseconds since 1970 by the author's clock; they decay from then on. */
  readonly asOfMs: number
  readonly halfLifeMs: number
  /** Tokens per second of the greatest code. */
  readonly peak: number
  /** [layers * experts], row-major. */
  readonly codes: Uint8Array
  readonly pairs: PackedPairs
}

/** Experts of one layer that tokens used together, those used most: key `(layer * experts + a) * experts + b` with a < b, ascending. */
export interface PackedPairs {
  readonly keys: Float64Array
  readonly codes: Uint8Array
}

export interface ModelRouting extends RoutingCounts {
  readonly heat?: Heat
}

/** Model id → what was routed. */
export type Routing = ReadonlyMap<string, ModelRouting>

/** What this author has served since it started. */
export interface Service {
  readonly served: number
  /** Calls refused because the host had too many. */
  readonly busy: number
  readonly failed: number
  /** Queue and compute time of a served call, as the host measured it. */
  readonly p50Us: number
  readonly p95Us: number
  /** The same times as a sketch, the last few thousand of them; earlier versions don't state it. */
  readonly latency?: Sketch
}

/** What this author measured of one other peer; counts fade with a half-life of its choice, so that they speak of the last days. */
export interface Observation {
  /** Round trip beyond the peer's own queue and compute. */
  readonly rttUs: number
  /** Calls answered. */
  readonly calls: number
  /** Calls that failed, or were not answered in time. */
  readonly failures: number
  /** Calls refused for experts that the peer states to hold. */
  readonly notHeld: number
  /** Answers repeated elsewhere, that agreed and that did not. */
  readonly auditsPassed: number
  readonly auditsFailed: number
  /** Of answered calls, from sending to receiving. */
  readonly latency: Sketch
}

/** Peer id → what was measured of it. */
export type Observed = ReadonlyMap<string, Observation>

export interface TopicValues {
  readonly profile: Profile
  readonly holdings: Holdings
  /** What of the holdings is served only until others do: its author wants to go, or to give it up. */
  readonly leaving: Holdings
  readonly routing: Routing
  readonly service: Service
  readonly observed: Observed
}

export type Topic = keyof TopicValues

export const TOPICS: readonly Topic[] = Object.freeze(['profile', 'holdings', 'leaving', 'routing', 'service', 'observed'] as const)

/** Bounds of one author's document; README.md gives the reasons. */
export const LIMITS = Object.freeze({
  /** UTF-8 bytes of a display name. */
  maxNameBytes: 64,
  maxVersionBytes: 32,
  maxModelBytes: 96,
  /** Models in one topic. */
  maxModels: 32,
  maxLayers: 512,
  /** Layers over all models of one author's holdings. */
  maxHoldingLayers: 4096,
  /** Experts of one layer. */
  maxExperts: 4096,
  /** layers × experts over all models of one author's routing: 4 times a 48-layer, 128-expert model. */
  maxRoutingCells: 24_576,
  /** Pairs of experts over all models of one author's routing: 32 for each of 48 layers. */
  maxPairs: 1_536,
  /** Tokens per second of one expert, as one author may claim: no machine routes so many. */
  maxRate: 1e7,
  minHalfLifeMs: 1_000,
  /** A month. */
  maxHalfLifeMs: 30 * 24 * 3_600_000,
  /** Peers in one author's observations. */
  maxObserved: 64,
  /** A minute: no call waits longer. */
  maxRttUs: 60_000_000,
  /** Packed bytes of one topic: the counts of 48 × 128 experts at 5 bytes each, and a third more. */
  maxTopicBytes: 40 * 1024,
  /** A packed topic, inflated: for each of maxRoutingCells a varint of 8 bytes and a code, and names. */
  maxInflatedBytes: 240 * 1024,
  /** Topics in one document, known or not. */
  maxTopics: 16,
  /** Yjs structs in one document: a run of tombstones and a live value per topic, and as many again in reserve. */
  maxStructs: 64,
})

/** Topics of later versions have such names too, so that they can be forwarded unread. */
export const TOPIC_NAME = /^[a-z][a-z0-9-]{0,31}$/

/**
 * The Yjs client that may write `topic` in one epoch of an author's document.
 * One client per topic and not per document: Yjs merges the tombstones of a value that was overwritten only when no other
 * key's write lies between them, so a client that writes several keys in turn leaves about 10 bytes per write for ever.
 */
export function clientIdOf(author: string, epoch: number, topic: string): number {
  return createHash('sha256').update(`${author}/${epoch}/${topic}`).digest().readUInt32BE(0)
}
