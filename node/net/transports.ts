import { transportSymbol } from '@libp2p/interface'
import type {
  ComponentLogger,
  Connection,
  DialTransportOptions,
  Libp2pEvents,
  Listener,
  Metrics,
  PrivateKey,
  Transport,
  TypedEventTarget,
} from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import type { Multiaddr } from '@multiformats/multiaddr'
import { QUIC_V1, WebSockets, WebSocketsSecure } from '@multiformats/multiaddr-matcher'

/** What transports are made of; libp2p gives it. */
export interface TransportComponents {
  readonly logger: ComponentLogger
  readonly privateKey: PrivateKey
  readonly events: TypedEventTarget<Libp2pEvents>
  readonly metrics?: Metrics
}

type CreateTransport = (components: TransportComponents) => Transport

interface Kind {
  readonly name: string
  readonly matches: (address: Multiaddr) => boolean
  readonly load: () => Promise<CreateTransport>
}

/** Both take a while to load, and most nodes get by with TCP. */
const KINDS: readonly Kind[] = [
  {
    name: 'quic',
    matches: (address) => QUIC_V1.exactMatch(address),
    load: async () => (await import('@chainsafe/libp2p-quic')).quic(),
  },
  {
    name: 'websocket',
    matches: (address) => WebSockets.exactMatch(address) || WebSocketsSecure.exactMatch(address),
    load: async () => (await import('@libp2p/websockets')).webSockets(),
  },
]

/** QUIC and WebSocket: loaded now where `listen` has an address of theirs, else when a peer is dialled that has. */
export async function moreTransports(listen: readonly string[]): Promise<CreateTransport[]> {
  const addresses = listen.map((address) => multiaddr(address))
  return await Promise.all(
    KINDS.map(async (kind): Promise<CreateTransport> => {
      if (addresses.some((address) => kind.matches(address))) return await kind.load()
      return (components) => new LateTransport(kind, components)
    }),
  )
}

/** A transport that only dials, and is loaded for its first dial. */
class LateTransport implements Transport {
  readonly [transportSymbol] = true as const
  readonly #kind: Kind
  readonly #components: TransportComponents
  #loading: Promise<Transport> | null = null

  constructor(kind: Kind, components: TransportComponents) {
    this.#kind = kind
    this.#components = components
  }

  get [Symbol.toStringTag](): string {
    return this.#kind.name
  }

  async dial(address: Multiaddr, options: DialTransportOptions): Promise<Connection> {
    this.#loading ??= this.#kind.load().then((create) => create(this.#components))
    return await (await this.#loading).dial(address, options)
  }

  dialFilter(addresses: Multiaddr[]): Multiaddr[] {
    return addresses.filter((address) => this.#kind.matches(address))
  }

  listenFilter(): Multiaddr[] {
    return []
  }

  createListener(): Listener {
    throw new Error(`${this.#kind.name} was not loaded to listen`)
  }

  start(): void {}

  async stop(): Promise<void> {
    const transport = (await this.#loading?.catch(() => null)) as { stop?(): Promise<void> } | null | undefined
    await transport?.stop?.()
  }
}
