import type { Libp2p, PeerId } from '@libp2p/interface'
import { repeat } from '../repeat.ts'

export interface RoutingTableKeeperComponents {
  readonly mesh: Pick<Libp2p, 'getConnections' | 'peerStore'>
  readonly dht: DhtTable
}

/** What `@libp2p/kad-dht` 16.4.5 has, though its interface does not say so. */
export interface DhtTable {
  readonly protocol: string
  readonly routingTable: {
    readonly size: number
    find(peer: PeerId): Promise<PeerId | undefined>
    /** Pings the peer, and takes it if it answers. */
    add(peer: PeerId, options: { signal: AbortSignal }): Promise<void>
  }
}

const TICK_MS = 5_000
/** A bucket of the table: with as many peers in it, others are found through them. */
const ENOUGH_PEERS = 20
const CONCURRENT_PINGS = 4

/**
 * Brings connected peers into the DHT's routing table. The DHT pings each once, when it connects, and leaves one that was too busy to answer
 * within five seconds out for good: then nobody finds that peer's address through this node, and a node that only knows it finds nobody.
 */
export class RoutingTableKeeper {
  readonly #components: RoutingTableKeeperComponents
  #stopping = new AbortController()
  #ticks = 0

  constructor(components: RoutingTableKeeperComponents) {
    this.#components = components
  }

  start(): void {
    this.#stopping = new AbortController()
    // A peer that does not answer now is asked again at the next tick.
    repeat(() => this.mend(), { intervalMs: TICK_MS, signal: this.#stopping.signal, onError: () => {} })
  }

  stop(): void {
    this.#stopping.abort(new Error('the node is stopping'))
  }

  /** Resolves when a few of the peers that are missing have been asked. */
  async mend(): Promise<void> {
    const { mesh, dht } = this.#components
    const peers = new Map(mesh.getConnections().map(({ remotePeer }) => [remotePeer.toString(), remotePeer]))
    if (dht.routingTable.size >= Math.min(ENOUGH_PEERS, peers.size)) return
    const missing: PeerId[] = []
    // From another peer on each time, so that a few that never answer don't keep the others out.
    const from = this.#ticks++ % peers.size
    for (const peer of [...[...peers.values()].slice(from), ...[...peers.values()].slice(0, from)]) {
      if (missing.length === CONCURRENT_PINGS) break
      if ((await dht.routingTable.find(peer)) === undefined && (await this.#speaksDht(peer))) missing.push(peer)
    }
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(TICK_MS)])
    await Promise.allSettled(missing.map((peer) => dht.routingTable.add(peer, { signal })))
  }

  /** False before the peer is identified. */
  async #speaksDht(peer: PeerId): Promise<boolean> {
    const known = await this.#components.mesh.peerStore.get(peer).catch(() => null)
    return known?.protocols.includes(this.#components.dht.protocol) ?? false
  }
}
