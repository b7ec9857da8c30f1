import type { Registry } from 'prom-client'
import type { NetworkReport, PeerReach } from '../net/network-report.ts'
import type { HoldingEvent, HoldingsRequest } from '../host/holdings-service.ts'
import type { QueryService } from '../driver/query.ts'
import type { Coverage } from '../router/coverage.ts'

/** What the HTTP face shows; composed in `node/node.ts`, so that the API knows no mesh and no engine. */
export interface ApiServices {
  readonly queries: QueryService
  models(): readonly ModelInfo[]
  swarm(): SwarmStatus
  experts(): readonly ExpertMap[]
  readonly metrics: Registry
  readonly holdings: HoldingsDoor
  readonly network: NetworkDoor
}

/** Takes experts up and gives them up while the node runs; each step is told as it is done. */
export interface HoldingsDoor {
  hold(request: HoldingsRequest & { readonly pin: boolean }, signal: AbortSignal): AsyncGenerator<HoldingEvent>
  release(request: HoldingsRequest & { readonly force: boolean }, signal: AbortSignal): AsyncGenerator<HoldingEvent>
}

/** A model of which this node has the trunk, and how much of it the swarm serves. */
export interface ModelInfo {
  readonly name: string
  readonly id: string
  readonly architecture: string
  readonly quant: string
  /** Seconds since 1970. */
  readonly createdAt: number
  readonly maxContext: number
  readonly coverage: Coverage
  /** Of all experts, packed. */
  readonly expertBytes: number
}

/** Use and coverage of every expert of a model, by layer and expert, as the ledger of the whole swarm has them. */
export interface ExpertMap {
  readonly model: string
  readonly id: string
  readonly layers: number
  readonly experts: number
  /** Drivers whose counts are in it. */
  readonly authors: number
  readonly coverage: Coverage
  /** Tokens per second of late. */
  readonly rates: readonly (readonly number[])[]
  /** Tokens ever. */
  readonly tokens: readonly (readonly number[])[]
  /** Live peers that state to serve the expert. */
  readonly hosts: readonly (readonly number[])[]
  /** Pairs of experts that tokens use together, the top ones of each layer, and tokens per second that do. */
  readonly pairs: readonly { readonly layer: number; readonly a: number; readonly b: number; readonly rate: number }[]
}

export interface SwarmStatus {
  readonly version: string
  readonly swarm: string
  readonly peer: string
  readonly addresses: readonly string[]
  readonly uptimeSeconds: number
  /** True once every expert of every model of this node has a live host. */
  readonly ready: boolean
  readonly models: readonly ModelInfo[]
  /** Peers that did not belong to the swarm, or did not take this node for one of it. */
  readonly refused: readonly { readonly peer: string; readonly reason: string }[]
  readonly relay: RelayUse
  readonly peers: readonly PeerStatus[]
  /** Experts hosted here, per model. */
  readonly holdings: readonly { readonly model: string; readonly layers: readonly { readonly layer: number; readonly experts: string }[] }[]
  readonly routing: readonly { readonly model: string; readonly tokens: number }[]
}

/** How the node is connected, and how others can be. */
export interface NetworkDoor {
  peers(): readonly PeerReach[]
  report(): Promise<NetworkReport>
  /** `expiresAt` in milliseconds since 1970; `uses` 0 for any number. Throws `InvalidRequestError` where the swarm cannot do it. */
  invite(options: { readonly expiresAt: number; readonly uses: number }): Promise<string>
}

/** How a node takes part in relaying. */
export interface RelayUse {
  /** Whether strangers on the internet can connect to it. */
  readonly reach: 'public' | 'private'
  /** Peers through which it can be reached. */
  readonly using: readonly string[]
  /** What it relays for others. */
  readonly serving: { readonly isOpen: boolean; readonly reservations: number; readonly circuits: number; readonly bytes: number }
}

export interface PeerStatus {
  readonly peer: string
  readonly name: string | null
  readonly connected: boolean
  readonly address: string | null
  /** Smoothed time of a call beyond the host's compute, in milliseconds; null before the first. */
  readonly rttMs: number | null
  readonly experts: number
  readonly callsSent: number
  readonly callsFailed: number
  /** Seconds since the peer's last ledger record. */
  readonly ledgerAgeSeconds: number | null
  /** Milliseconds until a host that failed is tried again; 0 when it is in use. */
  readonly backoffMs: number
}
