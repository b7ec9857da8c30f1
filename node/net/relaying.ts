import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'
import { repeat } from '../repeat.ts'
import type { Mesh } from './mesh.ts'
import type { ProviderRecords } from './provider-records.ts'
import type { Reach } from './reachability.ts'
import { RelayKeeper } from './relay-keeper.ts'
import type { RelayStats } from './relay-server.ts'

/** When a node relays for others: once it is publicly reachable, always, or never. */
export type RelayMode = 'auto' | 'on' | 'off'

export interface RelayingComponents {
  readonly mesh: Mesh
  readonly records: ProviderRecords
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

/** What a node does with relays at the moment. */
export interface RelayStatus {
  readonly reach: Reach
  /** Relays at which this node has a reservation. */
  readonly using: readonly string[]
  readonly serving: RelayStats
}

/** Relays for others while this node is publicly reachable, and keeps relays for itself while it is not. */
export class Relaying {
  readonly #components: RelayingComponents
  readonly #mode: RelayMode
  readonly #swarm: string
  readonly #keeper: RelayKeeper
  #stopping = new AbortController()
  /** Peers connected at the last announcement; 0 before the first. */
  #announcedTo = 0
  #announcedAt = -Infinity

  constructor(components: RelayingComponents, init: { readonly mode: RelayMode; readonly swarm: string }) {
    const { mesh, records, log } = components
    this.#components = components
    this.#mode = init.mode
    this.#swarm = init.swarm
    this.#keeper = new RelayKeeper({
      desk: mesh.services.relayDesk,
      mesh,
      findRelays: async (limit, signal) => records.find(await relayKey(init.swarm), limit, signal),
      needsRelays: () => mesh.services.reachability.reach === 'private' && !mesh.services.relay.stats().isOpen,
      log,
    })
  }

  /** The mesh is started. */
  async start(): Promise<void> {
    const { reachability } = this.#components.mesh.services
    this.#stopping = new AbortController()
    reachability.onChange = () => this.#decide()
    await this.#apply()
    this.#keeper.start()
    const onError = (error: Error): void => this.#components.log('relay.announce.failed', { reason: error.message })
    repeat(() => this.#announce(), { intervalMs: TICK_MS, signal: this.#stopping.signal, onError })
  }

  async stop(): Promise<void> {
    const { mesh } = this.#components
    mesh.services.reachability.onChange = null
    this.#stopping.abort(new Error('the node is stopping'))
    this.#keeper.stop()
    await mesh.services.relay.close()
  }

  /** A relay turned out not to do its work. */
  leave(relay: string): void {
    this.#keeper.leave(relay, 'connections of several peers fell silent over it')
  }

  status(): RelayStatus {
    const { mesh } = this.#components
    return {
      reach: mesh.services.reachability.reach,
      using: mesh.services.relayDesk.held().map(({ relay }) => relay.toString()),
      serving: mesh.services.relay.stats(),
    }
  }

  /** A record is stored by the peers that are known at the time: it is announced again when they have doubled in number. */
  async #announce(): Promise<void> {
    const { mesh } = this.#components
    const peers = mesh.getPeers().length
    if (!mesh.services.relay.stats().isOpen || peers === 0) return
    const isDue = performance.now() - this.#announcedAt > ANNOUNCE_INTERVAL_MS
    if (peers < 2 * this.#announcedTo && !isDue) return
    this.#announcedTo = peers
    this.#announcedAt = performance.now()
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(ANNOUNCE_TIMEOUT_MS)])
    await mesh.contentRouting.provide(CID.parse(await relayKey(this.#swarm)), { signal })
  }

  #decide(): void {
    this.#components.log('reach.changed', { reach: this.#components.mesh.services.reachability.reach })
    this.#apply().catch((error: Error) => this.#components.log('relay.failed', { reason: error.message }))
  }

  async #apply(): Promise<void> {
    const { mesh, log } = this.#components
    const { relay, reachability } = mesh.services
    const isOpen = this.#mode === 'on' || (this.#mode === 'auto' && reachability.reach === 'public')
    if (isOpen === relay.stats().isOpen) return
    log(isOpen ? 'relay.opened' : 'relay.closed', {})
    if (!isOpen) return await relay.close()
    await relay.open()
    this.#announcedTo = 0
  }
}

/** Looks whether the relay has to be announced (again). */
const TICK_MS = 1_000
/** Between two announcements in a swarm that does not grow; newcomers to the DHT's routing tables learn of the relay by them. */
const ANNOUNCE_INTERVAL_MS = 300_000
const ANNOUNCE_TIMEOUT_MS = 10_000

/** The DHT key under which the relays of a swarm announce themselves. */
export async function relayKey(swarm: string): Promise<string> {
  return CID.createV1(raw.code, await sha256.digest(new TextEncoder().encode(`skein relay ${swarm}`))).toString()
}
