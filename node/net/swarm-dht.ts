import { randomInt } from 'node:crypto'
import { contentRoutingSymbol } from '@libp2p/interface'
import type { ContentRouting, PeerInfo, Provider, RoutingOptions } from '@libp2p/interface'
import { kadDHT, passthroughMapper } from '@libp2p/kad-dht'
import type { KadDHT, KadDHTComponents, QueryEvent } from '@libp2p/kad-dht'
import type { CID } from 'multiformats/cid'

/** A crashed host's provider records go stale: they live this long. `ProviderRecords` renews this node's own earlier. */
const PROVIDER_VALIDITY_MS = 60 * 60 * 1000
const REPROVIDE_INTERVAL_MS = 10 * 60 * 1000
/**
 * Requests of one look-up under way: this many on each of as many paths, which share no peer. The peers asked first are the closest to
 * the key, so the first few mostly know; libp2p would ask 20 at once and have as many answers, with 20 peers each, to digest.
 */
const PARALLEL = 3
/** A peer that does not answer holds up its place in a look-up for so long. */
const MIN_REQUEST_TIMEOUT_MS = 3_000
/** New peers tried out at the same time, each by a connection and a ping: a look-up that names 20 must not delay the next one. */
const PARALLEL_TRIALS = 2
/**
 * A look-up ends when so many peers one after another, each of which keeps records of the CID, knew no provider that had not been named. With
 * each holder's record at four of five of the peers closest to the CID, one look-up in 600 misses it; a peer that lies counts once.
 */
const ENOUGH_AGREEING = 4
/** Providers of a CID that one peer may name in a look-up, as many as the product asks for. */
const MAX_NAMED = 8
/** Peers of which it is remembered what was told of them, and for how long. */
const MAX_TOLD = 2_048
const TOLD_MS = 10 * 60 * 1000

/** What libp2p sees of a DHT service. */
export type SwarmDht = KadDHT & { readonly [contentRoutingSymbol]: ContentRouting }

/** What a node asks of the DHT. */
export type SwarmRouting = Pick<ContentRouting, 'provide' | 'cancelReprovide'> & {
  /** Each once; rejects when `signal` fires before enough peers have answered. */
  findProviders(cid: CID, options?: RoutingOptions): AsyncIterable<Provider>
}

/** The Kademlia DHT of one swarm, in which every node is a server. */
export function swarmDht(protocol: string): (components: KadDHTComponents) => SwarmDht {
  const create = kadDHT({
    protocol,
    // Private addresses are kept: a swarm may live in one house.
    peerInfoMapper: passthroughMapper,
    clientMode: false,
    allowQueryWithZeroPeers: true,
    initialQuerySelfInterval: 500,
    alpha: PARALLEL,
    disjointPaths: PARALLEL,
    networkDialTimeout: { minTimeout: MIN_REQUEST_TIMEOUT_MS },
    pingNewContactConcurrency: PARALLEL_TRIALS,
    pingOldContactConcurrency: PARALLEL_TRIALS,
    reprovide: { validity: PROVIDER_VALIDITY_MS, threshold: PROVIDER_VALIDITY_MS / 2, interval: REPROVIDE_INTERVAL_MS },
  })
  return (components) => {
    const dht = create(components) as SwarmDht & EventTarget
    const isNew = newsFilter()
    tryOnlyKnown(dht, components)
    hearLittleFromEach(dht)
    const dispatch = dht.dispatchEvent.bind(dht)
    // Each answer names 20 peers. libp2p writes every one to its store, though nearly all were named a moment ago.
    dht.dispatchEvent = (event) => event.type !== 'peer' || !isNew((event as CustomEvent<PeerInfo>).detail) || dispatch(event)
    return dht
  }
}

/**
 * Has the DHT try out, for its routing table, only peers that are connected; those that answer a look-up it tries anyway. By itself it also
 * connects to every peer that somebody names, which in a swarm of hundreds is everybody to everybody. go-libp2p does not either.
 */
function tryOnlyKnown(dht: SwarmDht, { connectionManager }: KadDHTComponents): void {
  const inside = dht as SwarmDht & { onPeerConnect(peer: PeerInfo): Promise<void> }
  const onPeerConnect = inside.onPeerConnect.bind(dht)
  inside.onPeerConnect = async (peer) => {
    if (connectionManager.getConnections(peer.id).length > 0) await onPeerConnect(peer)
  }
}

/** Has the DHT take up to {@link MAX_NAMED} providers from one answer: it ends a look-up once it has twenty, whoever named them. */
function hearLittleFromEach(dht: SwarmDht): void {
  const { network } = dht as SwarmDht & { network: { sendRequest(...request: unknown[]): AsyncGenerator<QueryEvent> } }
  const sendRequest = network.sendRequest.bind(network)
  network.sendRequest = async function* (...request) {
    for await (const event of sendRequest(...request)) {
      if (event.name === 'PEER_RESPONSE' && event.providers.length > MAX_NAMED) event.providers = someOf(event.providers, MAX_NAMED)
      yield event
    }
  }
}

/** So many of the items, at random: of many holders, two peers then name some in common. */
function someOf<T>(items: readonly T[], count: number): T[] {
  const left = [...items]
  return Array.from({ length: count }, () => left.splice(randomInt(left.length), 1)[0]!)
}

/** Tells whether a peer, with these addresses, was not named lately. */
function newsFilter(): (peer: PeerInfo) => boolean {
  const told = new Map<string, { readonly addresses: string; readonly at: number }>()
  return ({ id, multiaddrs }) => {
    const key = id.toString()
    const addresses = multiaddrs.map(String).sort().join(' ')
    const last = told.get(key)
    if (last !== undefined && last.addresses === addresses && performance.now() - last.at < TOLD_MS) return false
    told.delete(key)
    told.set(key, { addresses, at: performance.now() })
    if (told.size > MAX_TOLD) told.delete(told.keys().next().value!)
    return true
  }
}

/** The DHT's own content routing; libp2p's, which merges those of all services, goes on asking when nobody listens any more. */
export function routingOf(dht: SwarmDht): SwarmRouting {
  const routing = dht[contentRoutingSymbol]
  return {
    provide: routing.provide.bind(routing),
    cancelReprovide: routing.cancelReprovide.bind(routing),
    findProviders: (cid, options) => findProviders(dht, cid, options),
  }
}

/**
 * Providers that two peers name come first, those that only one names last, so that one that lies can't put its own in the place of the others.
 * It ends when enough peers have named the same ones: the DHT itself asks on until all of the twenty peers closest to the CID have answered.
 */
async function* findProviders(dht: SwarmDht, cid: CID, options: RoutingOptions = {}): AsyncGenerator<Provider> {
  const confirmed = new Set<string>()
  const unconfirmed = new Map<string, Provider>()
  let agreeing = 0
  try {
    for await (const event of dht.findProviders(cid, options)) {
      if (event.name !== 'PEER_RESPONSE' || event.providers.length === 0) continue
      const named = new Map(event.providers.map((provider) => [provider.id.toString(), { ...provider, routing: 'kad-dht' }]))
      const before = confirmed.size + unconfirmed.size
      for (const [peer, provider] of named) {
        if (confirmed.has(peer)) continue
        if (!unconfirmed.delete(peer)) {
          unconfirmed.set(peer, provider)
          continue
        }
        confirmed.add(peer)
        yield provider
      }
      agreeing = confirmed.size + unconfirmed.size === before ? agreeing + 1 : 0
      if (agreeing === ENOUGH_AGREEING) break
    }
  } catch (error) {
    yield* unconfirmed.values()
    throw error
  }
  yield* unconfirmed.values()
}
