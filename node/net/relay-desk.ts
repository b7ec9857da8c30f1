import { circuitRelayTransport, RELAY_V2_HOP_CODEC } from '@libp2p/circuit-relay-v2'
import type { CircuitRelayTransportComponents } from '@libp2p/circuit-relay-v2'
import type { Connection, PeerId, Transport } from '@libp2p/interface'
import type { TransportManager } from '@libp2p/interface-internal'

/** A reservation that this node holds at a relay. */
export interface Reservation {
  readonly relay: PeerId
  /** Of the connection on which it rests: it ends with it. */
  readonly connectionId: string
}

/** The inside of `@libp2p/circuit-relay-v2` 4.2.13's transport on which choosing relays rests. */
interface TransportInside extends Transport {
  readonly discovery: { startDiscovery(): void }
  readonly reservationStore: {
    readonly reservations: Iterable<readonly [PeerId, { readonly connection: string }]>
    addRelay(relay: PeerId, type: 'discovered'): Promise<unknown>
    addEventListener(event: 'relay:removed', listener: () => void): void
  }
}

/** Reservations that a node that can't be reached directly keeps: two may be lost at once. */
export const WANTED_RELAYS = 3
/** Connections relayed to this node, and from it, that one relay connection may carry at the same time. */
const MAX_CIRCUITS = 300

/** libp2p's circuit transport, except that it takes no relay unasked: the library would take any that it happens to meet. */
export function askedRelays(): (components: CircuitRelayTransportComponents) => Transport {
  const create = circuitRelayTransport({
    // Says of every relay that it was met before.
    discoveryFilter: { has: () => true, add: () => true, remove: () => true },
    reservationConcurrency: WANTED_RELAYS,
    maxInboundStopStreams: MAX_CIRCUITS,
    maxOutboundStopStreams: MAX_CIRCUITS,
  })
  return (components) => {
    const transport = create(components) as TransportInside
    transport.discovery.startDiscovery = () => {}
    return transport
  }
}

/** Makes reservations at the relays that it is told to, as a service of a libp2p node with {@link askedRelays}. */
export class RelayDesk {
  readonly #transports: Pick<TransportManager, 'getTransports'>
  /** Hears of each reservation that ended. */
  onLost: (() => void) | null = null

  constructor(components: { transportManager: Pick<TransportManager, 'getTransports'> }) {
    this.#transports = components.transportManager
  }

  /** Called by libp2p, once. */
  start(): void {
    this.#store().addEventListener('relay:removed', () => this.onLost?.())
  }

  stop(): void {
    this.onLost = null
  }

  /** What is held now. */
  held(): Reservation[] {
    return [...this.#store().reservations].map(([relay, { connection }]) => ({ relay, connectionId: connection }))
  }

  /** Asks a relay for a reservation; its address then becomes one of this node's. Rejects when the relay refuses or can't be reached. */
  async reserve(relay: PeerId): Promise<void> {
    await this.#store().addRelay(relay, 'discovered')
  }

  #store(): TransportInside['reservationStore'] {
    const transport = this.#transports.getTransports().find((entry): entry is TransportInside => 'reservationStore' in entry)
    if (transport === undefined) throw new Error('the node has no circuit transport')
    return transport.reservationStore
  }
}

/** Protocol that a relay speaks. */
export const RELAY_PROTOCOL = RELAY_V2_HOP_CODEC

/** A connection through a relay, whichever side dialled. */
export function isRelayed(connection: Pick<Connection, 'remoteAddr'>): boolean {
  return connection.remoteAddr.getComponents().some(({ name }) => name === 'p2p-circuit')
}

/** Peer id of the relay that carries the connection; null for a direct one. */
export function relayOf(connection: Pick<Connection, 'remoteAddr'>): string | null {
  const components = connection.remoteAddr.getComponents()
  const circuit = components.findIndex(({ name }) => name === 'p2p-circuit')
  return circuit < 0 ? null : (components.slice(0, circuit).findLast(({ name }) => name === 'p2p')?.value ?? null)
}
