import { CID } from 'multiformats/cid'
import * as raw from 'multiformats/codecs/raw'
import { sha256 } from 'multiformats/hashes/sha2'
import { bestConnection, linkKind } from './link-kind.ts'
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
    reachability.onChange = () => this.#decide()
    await this.#apply()
    this.#keeper.start()
  }

  async stop(): Promise<void> {
    const { mesh } = this.#components
    mesh.services.reachability.onChange = null
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

  /** Whether most peers reach this node, and it them, through relays only. */
  isRelayed(): boolean {
    const { mesh } = this.#components
    const relays = new Set(this.status().using)
    if (relays.size === 0) return false
    const peers = Map.groupBy(mesh.getConnections(), ({ remotePeer }) => remotePeer.toString())
    const links = [...peers].filter(([peer]) => !relays.has(peer)).map(([, connections]) => bestConnection(connections))
    const relayed = links.filter((link) => link !== undefined && linkKind(link) === 'relay').length
    return relayed > links.length / 2
  }

  #decide(): void {
    this.#components.log('reach.changed', { reach: this.#components.mesh.services.reachability.reach })
    this.#apply().catch((error: Error) => this.#components.log('relay.failed', { reason: error.message }))
  }

  async #apply(): Promise<void> {
    const { mesh, records, log } = this.#components
    const { relay, reachability } = mesh.services
    const isOpen = this.#mode === 'on' || (this.#mode === 'auto' && reachability.reach === 'public')
    if (isOpen === relay.stats().isOpen) return
    log(isOpen ? 'relay.opened' : 'relay.closed', {})
    if (isOpen) await relay.open()
    else await relay.close()
    records.announce('relay', isOpen ? [await relayKey(this.#swarm)] : [])
  }
}

/** The DHT key under which the relays of a swarm announce themselves. */
export async function relayKey(swarm: string): Promise<string> {
  return CID.createV1(raw.code, await sha256.digest(new TextEncoder().encode(`skein relay ${swarm}`))).toString()
}
