import type { PeerId, PeerStore, Topology } from '@libp2p/interface'
import type { ConnectionManager } from '@libp2p/interface-internal'
import { repeat } from '../repeat.ts'
import { bestConnection } from './link-kind.ts'

export interface GossipKeeperComponents {
  readonly connectionManager: Pick<ConnectionManager, 'getConnections' | 'getConnectionsMap'>
  /** By it gossip learns of peers; nothing else makes it open a stream. */
  readonly registrar: { getTopologies(protocol: string): Topology[] }
  readonly peerStore: Pick<PeerStore, 'get'>
}

/** What `@libp2p/gossipsub` 17.1.1 shows of its streams, though its interface does not say so. */
export interface GossipStreams {
  /** The newest first. */
  readonly protocols: readonly string[]
  readonly streamsOutbound: ReadonlyMap<string, unknown>
}

const TICK_MS = 1_000
/** A peer to which a stream was asked for in vain is asked again after this. */
const RETRY_MS = 10_000

/**
 * Sees to it that every connected peer that speaks gossip has a stream of it. Gossipsub opens one when a peer is first connected, and none
 * when the connection that carried it ends while another stays, as when a relayed link gives way to a direct one.
 */
export class GossipKeeper {
  readonly #components: GossipKeeperComponents
  readonly #gossip: GossipStreams
  readonly #askedAt = new Map<string, number>()
  #stopping = new AbortController()

  constructor(components: GossipKeeperComponents, gossip: GossipStreams) {
    this.#components = components
    this.#gossip = gossip
  }

  start(): void {
    this.#stopping = new AbortController()
    // A peer that is not known to the store any more is a matter for the next tick.
    repeat(() => this.#mend(), { intervalMs: TICK_MS, signal: this.#stopping.signal, onError: () => {} })
  }

  stop(): void {
    this.#stopping.abort(new Error('the node is stopping'))
    this.#askedAt.clear()
  }

  async #mend(): Promise<void> {
    // As many streams as peers, for nearly all of the time.
    if (this.#gossip.streamsOutbound.size >= this.#components.connectionManager.getConnectionsMap().size) return
    const byPeer = Map.groupBy(this.#components.connectionManager.getConnections(), ({ remotePeer }) => remotePeer.toString())
    for (const peer of this.#askedAt.keys()) if (!byPeer.has(peer)) this.#askedAt.delete(peer)
    for (const [peer, connections] of byPeer) {
      const connection = bestConnection(connections)
      const isAsked = performance.now() - (this.#askedAt.get(peer) ?? -Infinity) < RETRY_MS
      if (connection === undefined || isAsked || this.#gossip.streamsOutbound.has(peer)) continue
      const protocol = await this.#protocolOf(connection.remotePeer)
      if (protocol === undefined || this.#stopping.signal.aborted) continue
      this.#askedAt.set(peer, performance.now())
      for (const topology of this.#components.registrar.getTopologies(protocol))
        await topology.onConnect?.(connection.remotePeer, connection)
    }
  }

  /** The gossip protocol that the peer speaks; undefined before it is identified, or when it speaks none. */
  async #protocolOf(peer: PeerId): Promise<string | undefined> {
    const { protocols } = await this.#components.peerStore.get(peer)
    return this.#gossip.protocols.find((protocol) => protocols.includes(protocol))
  }
}
