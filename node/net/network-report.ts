import type { Connection } from '@libp2p/interface'
import type { Reach as Mapping } from '../../protocols/punch/index.ts'
import { linkKind } from './link-kind.ts'
import type { LinkKind } from './link-kind.ts'
import type { LeftOut } from './listen-addresses.ts'
import type { LinkWatch } from './link-watch.ts'
import type { Mesh } from './mesh.ts'
import { missingLibraries } from './native-libraries.ts'
import type { MissingLibrary } from './native-libraries.ts'
import type { Puncher } from './punch/puncher.ts'
import type { DirectDialer } from './direct-dialer.ts'
import type { PortMappingStatus } from './port-mapping.ts'
import { whyRelayed } from './why-relayed.ts'
import { relayOf } from './relay-desk.ts'
import type { Rejoiner, Unreachable } from './rejoiner.ts'
import type { DhtTable } from './routing-table-keeper.ts'
import type { Relaying, RelayStatus } from './relaying.ts'

/** One way in which a peer is connected. */
export interface PeerLink {
  readonly by: LinkKind
  readonly address: string
  /** Relay that carries it; null for a direct one. */
  readonly relay: string | null
  /** Whether this node dialled. */
  readonly isOutbound: boolean
  /** Null before the first ping was answered. */
  readonly rttMs: number | null
}

/** How a peer is reached. */
export interface PeerReach {
  readonly peer: string
  readonly name: string | null
  /** Whether it has proved on an open connection that it belongs to the swarm. */
  readonly isMember: boolean
  /** The best first; none when it is known but not connected. */
  readonly links: readonly PeerLink[]
  /** What the link carried a second, as seen in blobs and calls with many rows; null before the first. */
  readonly bytesPerSecond: number | null
  /** Why it is reached through a relay only, or not at all; null when it is reached directly. */
  readonly reason: string | null
}

/** How a router treats what this node sends: `none` is unknown, `dependent` is a symmetric NAT. */
export type NatKind = Mapping['mapping']

/** What a node knows of its network, for people. */
export interface NetworkReport {
  readonly peer: string
  readonly swarm: { readonly name: string; readonly isPrivate: boolean; readonly isAdmitted: boolean }
  readonly addresses: readonly string[]
  /** Addresses on which it would listen if it could. */
  readonly leftOut: readonly LeftOut[]
  readonly missing: readonly MissingLibrary[]
  readonly relay: RelayStatus
  /** Public peers that tell this node how they see it; null with punching switched off. */
  readonly reflectors: number | null
  /** Null when nobody could be asked, or punching is off. */
  readonly nat: { readonly udp: NatKind; readonly tcp: NatKind } | null
  /** Null with UPnP switched off, or where no router is needed. */
  readonly upnp: PortMappingStatus | null
  readonly isUpnpOn: boolean
  /** `known`: peers in the routing table, through which others are found. */
  readonly dht: { readonly isServer: boolean; readonly peers: number; readonly known: number }
  /** The middle of how far peers' clocks are ahead of this one; null without peers. */
  readonly clockAheadMs: number | null
  readonly unreachable: readonly Unreachable[]
  readonly refused: readonly { readonly peer: string; readonly reason: string }[]
  readonly peers: readonly PeerReach[]
}

export interface NetworkReporterComponents {
  readonly mesh: Mesh
  readonly relaying: Pick<Relaying, 'status'>
  readonly watch: Pick<LinkWatch, 'quality'>
  readonly rejoiner: Pick<Rejoiner, 'unreachable'>
  readonly rates: { bytesPerSecond(peer: string): number | null }
  readonly puncher: Pick<Puncher, 'look' | 'reflectorHosts' | 'history'> | null
  readonly directDialer: Pick<DirectDialer, 'failure'>
  /** Whether this node may ask routers to forward ports. */
  readonly isUpnpOn: boolean
  readonly leftOut: readonly LeftOut[]
  /** Live members of the ledger's view, with their names. */
  readonly members: () => ReadonlyMap<string, string | null>
  readonly swarm: () => NetworkReport['swarm']
}

const LOOK_TIMEOUT_MS = 5_000

/** Says how a node is connected and what stands in its way. */
export class NetworkReporter {
  readonly #components: NetworkReporterComponents

  constructor(components: NetworkReporterComponents) {
    this.#components = components
  }

  /** Every connected peer and every live member, by peer id. */
  peers(): PeerReach[] {
    const { mesh, members, rates } = this.#components
    const names = members()
    const connections = Map.groupBy(mesh.getConnections(), ({ remotePeer }) => remotePeer.toString())
    const { membership } = mesh.services
    const refused = membership.refusals()
    const peers = new Set([...names.keys(), ...connections.keys()])
    peers.delete(mesh.peerId.toString())
    return [...peers].sort().map((peer) => {
      const links = (connections.get(peer) ?? []).map((connection) => this.#link(connection)).sort(directFirst)
      return {
        peer,
        name: names.get(peer) ?? null,
        isMember: (connections.get(peer) ?? []).some((connection) => membership.hasProved(connection)),
        links,
        bytesPerSecond: rates.bytesPerSecond(peer),
        reason: refused.get(peer) ?? this.#reason(peer, links),
      }
    })
  }

  #reason(peer: string, links: readonly PeerLink[]): string | null {
    const { puncher, directDialer } = this.#components
    if (links.length === 0) return 'known from the ledger, not connected: none of its addresses answered, or nobody needed it yet'
    if (links.some(({ relay }) => relay === null)) return null
    const punch = puncher === null ? null : { record: puncher.history.of(peer) }
    return whyRelayed({ punch, dialFailure: directDialer.failure(peer), nowMs: Date.now() })
  }

  /** The whole report; asks reflectors, which takes some seconds at most. */
  async report(): Promise<NetworkReport> {
    const { mesh, relaying, rejoiner, puncher, swarm } = this.#components
    const { membership, dht } = mesh.services
    return {
      peer: mesh.peerId.toString(),
      swarm: swarm(),
      addresses: mesh.getMultiaddrs().map(String),
      leftOut: this.#components.leftOut,
      missing: await missingLibraries(),
      relay: relaying.status(),
      reflectors: puncher?.reflectorHosts ?? null,
      nat: puncher === null ? null : await lookWithin(puncher, LOOK_TIMEOUT_MS),
      upnp: mesh.services.portMapping?.status() ?? null,
      isUpnpOn: this.#components.isUpnpOn,
      dht: {
        isServer: dht.getMode() === 'server',
        peers: mesh.getPeers().length,
        known: (dht as unknown as DhtTable).routingTable.size,
      },
      clockAheadMs: membership.clockAheadMs(),
      unreachable: rejoiner.unreachable(),
      refused: [...membership.refusals()].map(([peer, reason]) => ({ peer, reason })),
      peers: this.peers(),
    }
  }

  #link(connection: Connection): PeerLink {
    const rttMs = this.#components.watch.quality(connection)?.rttMs ?? null
    return {
      by: linkKind(connection),
      address: connection.remoteAddr.toString(),
      relay: linkKind(connection) === 'relay' ? relayOf(connection) : null,
      isOutbound: connection.direction === 'outbound',
      rttMs: rttMs === null ? null : Math.round(rttMs * 10) / 10,
    }
  }
}

function directFirst(a: PeerLink, b: PeerLink): number {
  return Number(a.relay !== null) - Number(b.relay !== null) || (a.rttMs ?? Infinity) - (b.rttMs ?? Infinity)
}

async function lookWithin(puncher: Pick<Puncher, 'look'>, ms: number): Promise<NetworkReport['nat']> {
  const { promise: late, resolve } = Promise.withResolvers<null>()
  const timer = setTimeout(() => resolve(null), ms)
  try {
    const side = await Promise.race([puncher.look(), late])
    return side === null ? null : { udp: side.udp.mapping, tcp: side.tcp.mapping }
  } catch {
    // Nobody could be asked.
    return null
  } finally {
    clearTimeout(timer)
  }
}
