import { noise } from '@chainsafe/libp2p-noise'
import { autoNATv2 } from '@libp2p/autonat-v2'
import { bootstrap } from '@libp2p/bootstrap'
import type { GossipSub } from '@libp2p/gossipsub'
import { identify, identifyPush } from '@libp2p/identify'
import type { Identify, IdentifyPush } from '@libp2p/identify'
import type { Ed25519PrivateKey, Libp2p } from '@libp2p/interface'
import { mdns } from '@libp2p/mdns'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { ping } from '@libp2p/ping'
import type { Ping } from '@libp2p/ping'
import { preSharedKey } from '@libp2p/pnet'
import type { UPnPNATComponents } from '@libp2p/upnp-nat'
import { createLibp2p } from 'libp2p'
import { ConfigError } from '../errors.ts'
import type { Gatekeeper } from '../swarm/gatekeeper.ts'
import { dhtProtocol } from '../swarm/swarm.ts'
import { byDialOrder } from './dial-order.ts'
import { directTls } from './direct-tls.ts'
import { membership } from './membership.ts'
import type { Membership } from './membership.ts'
import { ledgerGossip } from './ledger-gossip.ts'
import { linkLocalDiscovery } from './link-local-discovery.ts'
import type { MeshDatastore } from './mesh-datastore.ts'
import { PortMapping } from './port-mapping.ts'
import { transportParts } from './punch/transport-parts.ts'
import type { TransportParts } from './punch/transport-parts.ts'
import { quietYamux } from './quiet-yamux.ts'
import { reachability } from './reachability.ts'
import type { Reachability } from './reachability.ts'
import { askedRelays, RelayDesk, WANTED_RELAYS } from './relay-desk.ts'
import { relayServer } from './relay-server.ts'
import type { RelayQuota, RelayServer } from './relay-server.ts'
import { swarmDht } from './swarm-dht.ts'
import type { SwarmDht } from './swarm-dht.ts'
import { moreTransports } from './transports.ts'
import { swarmTcp } from './swarm-tcp.ts'

export type MeshServices = {
  identify: Identify
  identifyPush: IdentifyPush
  ping: Ping
  dht: SwarmDht
  pubsub: GossipSub
  autoNAT: unknown
  /** Missing where no router could help. */
  portMapping?: PortMapping
  membership: Membership
  reachability: Reachability
  relay: RelayServer
  relayDesk: RelayDesk
  /** What transports outside libp2p's own list are made of. */
  parts: TransportParts
}
export type Mesh = Libp2p<MeshServices>

export interface MeshInit {
  readonly privateKey: Ed25519PrivateKey
  readonly gate: Gatekeeper
  readonly version: string
  readonly listen: readonly string[]
  /** Public addresses at which a router or proxy, as its operator says, passes connections on to this node. */
  readonly announce?: readonly string[]
  readonly bootstrap: readonly string[]
  readonly mdns: boolean
  /** Ask the router to forward the listening ports; AutoNAT then confirms that it does. */
  readonly upnp?: boolean
  /** What this node's relay gives, while it is open. Default: {@link RELAY_DEFAULTS}. */
  readonly relayQuota?: RelayQuota
  /** Hears of peers that can't prove that they belong to the swarm. */
  readonly onRefused?: (peer: string, reason: string) => void
  /** Of the peer store and the DHT's records; open, and to be closed after the mesh has stopped. */
  readonly datastore: MeshDatastore
}

/** Quiet streams are kept: a driver may be idle for a day between two questions. */
const STREAM_INACTIVITY_MS = 24 * 3600 * 1000
/** At once to one peer: the DHT, who keeps relays and whoever asks do not know of each other, and one too many would look like a dead peer. */
const MAX_PINGS = 4
/** libp2p's default of 5 a second per remote address cuts off peers that share one (several nodes on a machine, CGNAT). */
const INBOUND_CONNECTIONS_PER_SECOND = 100
const MAX_CONNECTIONS = 512
/** To a peer that answers slowly: four round trips of a line with 2.6 s each way, as a full one may have. Where nobody answers TCP gives up sooner. */
const ADDRESS_DIAL_MS = 12_000
const UPGRADE_MS = 15_000
const REMEMBER_MS = 30 * 24 * 3600 * 1000
/** A relay that pauses a stream has this much sent to it at most; libp2p resets a paused stream that has more unread. */
const MAX_STREAM_WINDOW_BYTES = 4 * 1024 * 1024
/** libp2p waits a second before it dials the bootstrap peers; by then they could have answered. */
const BOOTSTRAP_DELAY_MS = 50

/** Each stands for one reservation that may be held; without any held it is no address. */
const RELAY_LISTENERS: readonly string[] = Array.from({ length: WANTED_RELAYS }, () => '/p2p-circuit')

/** The libp2p node of one swarm: TCP, TLS preferred over noise (1.2-1.6x less CPU), yamux, a DHT of the swarm's own, gossipsub. Not started. */
export async function createMesh(init: MeshInit): Promise<Mesh> {
  const { swarm } = init.gate
  const serviceTag = `_skein-${swarm.id}._udp.local`
  await init.datastore.forgetProvided(peerIdFromPrivateKey(init.privateKey).toString())
  return await createLibp2p<MeshServices>({
    start: false,
    privateKey: init.privateKey,
    datastore: init.datastore,
    nodeInfo: { name: 'skein', version: init.version, userAgent: `skein/${init.version}` },
    // Peers met are the way back into the swarm when no bootstrap node lives any more; libp2p would forget them within hours.
    peerStore: { maxAddressAge: REMEMBER_MS, maxPeerAge: REMEMBER_MS },
    addresses: { listen: [...init.listen, ...RELAY_LISTENERS], appendAnnounce: [...(init.announce ?? [])] },
    transports: [swarmTcp(), askedRelays(), ...(await moreTransports(init.listen))],
    ...(swarm.transportKey === null ? {} : { connectionProtector: preSharedKey({ psk: pskFile(swarm.transportKey) }) }),
    connectionEncrypters: [directTls(), noise()],
    streamMuxers: [
      quietYamux({ streamOptions: { inactivityTimeout: STREAM_INACTIVITY_MS, maxStreamWindowSize: MAX_STREAM_WINDOW_BYTES } }),
    ],
    connectionManager: {
      inboundConnectionThreshold: INBOUND_CONNECTIONS_PER_SECOND,
      maxConnections: MAX_CONNECTIONS,
      addressSorter: byDialOrder,
      addressDialTimeout: ADDRESS_DIAL_MS,
      inboundUpgradeTimeout: UPGRADE_MS,
    },
    // It aborts connections whose pings are slow, which under a saturated CPU are those that work hardest; calls have deadlines of their own.
    connectionMonitor: { enabled: false },
    peerDiscovery: [
      ...(init.bootstrap.length > 0 ? [bootstrap({ list: [...init.bootstrap], timeout: BOOTSTRAP_DELAY_MS })] : []),
      ...(init.mdns ? [mdns({ serviceTag }), linkLocalDiscovery({ serviceTag, listen: init.listen })] : []),
    ],
    services: {
      identify: identify({ timeout: UPGRADE_MS }),
      identifyPush: identifyPush(),
      ping: ping({ maxOutboundStreams: MAX_PINGS, maxInboundStreams: 2 * MAX_PINGS }),
      dht: swarmDht(dhtProtocol(swarm)),
      membership: membership({ gate: init.gate, ...(init.onRefused === undefined ? {} : { onRefused: init.onRefused }) }),
      autoNAT: autoNATv2(),
      ...(init.upnp === true && init.listen.some((address) => !isLoopback(address))
        ? { portMapping: (components: UPnPNATComponents) => new PortMapping(components) }
        : {}),
      reachability: reachability(),
      relay: relayServer(init.relayQuota),
      relayDesk: (components) => new RelayDesk(components),
      pubsub: ledgerGossip(),
      parts: transportParts(),
    },
  })
}

/** No router is needed to reach it, and none could help. */
function isLoopback(address: string): boolean {
  return /^\/ip4\/127\.|^\/ip6\/::1\//.test(address)
}

/** The key in the format of pnet's key files. */
function pskFile(key: Uint8Array): Uint8Array {
  return Buffer.from(`/key/swarm/psk/1.0.0/\n/base16/\n${Buffer.from(key).toString('hex')}`)
}

/** Starts the node. Throws `ConfigError` naming the address when none can be listened on. */
export async function startMesh(mesh: Mesh, listen: readonly string[]): Promise<void> {
  try {
    await mesh.start()
  } catch (error) {
    const causes = error instanceof AggregateError ? error.errors : [error]
    const inUse = causes.some(
      // The second is what QUIC's library says.
      (cause) => /EADDRINUSE|already in use/.test((cause as Error).message) || (cause as NodeJS.ErrnoException).code === 'EADDRINUSE',
    )
    // libp2p's message has a line for each that failed.
    const failed = listen.filter((address) => (error as Error).message.includes(`\n  ${address}: `))
    const where = (failed.length > 0 ? failed : listen).join(' ')
    throw new ConfigError(
      inUse
        ? `--listen ${where}: the port is in use; stop the other program, or pass another --listen (tcp/0 takes any free port)`
        : `--listen ${where}: cannot listen: ${(error as Error).message}`,
      { cause: error },
    )
  }
  if (listen.length > 0 && mesh.getMultiaddrs().length === 0)
    throw new ConfigError(`--listen ${listen.join(' ')}: none of these addresses could be listened on`)
}
