import { networkInterfaces } from 'node:os'
import type { Identify } from '@libp2p/identify'
import type { AddressManager, ConnectionManager } from '@libp2p/interface-internal'
import { isIPv4 } from 'node:net'
import type { Multiaddr } from '@multiformats/multiaddr'
import { repeat } from '../repeat.ts'
import { hostOf, isPrivateHost } from './operator.ts'

export interface ReachabilityComponents {
  readonly addressManager: AddressManager
  readonly connectionManager: Pick<ConnectionManager, 'getConnections'>
  readonly identify: Identify
}

/** Whether strangers on the internet can connect to this node: `public` when an address was confirmed, else `private`. */
export type Reach = 'public' | 'private'

export interface ReachabilityInit {
  /** How often it is looked at anew; libp2p tells nobody when AutoNAT changes its mind. */
  readonly intervalMs?: number
  /** IP addresses of this machine, as far as they are routed on the internet. */
  readonly machineHosts?: () => readonly string[]
}

const INTERVAL_MS = 2_000
/** A public IPv4 address on the machine itself is believed for so long before AutoNAT is asked to confirm it. */
const BELIEF_MS = 60_000
/** Peers asked about a new address, and how long they may take to say that they can tell. */
const MAX_ASKED = 4
const IDENTIFY_MS = 10_000

/**
 * Decides whether a node is publicly reachable. An address counts once AutoNAT v2, a port mapping or the operator (`--announce`) confirmed it.
 * Public IPv4 addresses of the machine itself are believed until AutoNAT could ask somebody, because the first node of a swarm has
 * nobody to ask; IPv6 ones are not, as home routers let no connection in to them.
 */
export class Reachability {
  readonly #addresses: AddressManager
  readonly #components: ReachabilityComponents
  readonly #intervalMs: number
  readonly #machineHosts: () => readonly string[]
  readonly #believed = new Set<string>()
  /** Public addresses that nobody has confirmed yet. */
  #unconfirmed: ReadonlySet<string> = new Set()
  #stopping = new AbortController()
  #reach: Reach = 'private'
  /** Hears of each change. */
  onChange: ((reach: Reach) => void) | null = null

  constructor(components: ReachabilityComponents, init: ReachabilityInit = {}) {
    this.#components = components
    this.#addresses = components.addressManager
    // What peers see of this node's QUIC dials is a socket on which nobody listens, and of its TCP dials libp2p itself takes nothing. AutoNAT
    // would spend seconds on each, before it comes to addresses that can be reached.
    this.#addresses.addObservedAddr = () => {}
    this.#intervalMs = init.intervalMs ?? INTERVAL_MS
    this.#machineHosts = init.machineHosts ?? publicHosts
  }

  get reach(): Reach {
    return this.#reach
  }

  /** Confirmed addresses at which strangers can reach this node. */
  publicAddresses(): Multiaddr[] {
    return this.#addresses.getAddresses().filter(isPublic)
  }

  /** Called by libp2p once the transports listen. */
  afterStart(): void {
    this.#stopping = new AbortController()
    repeat(() => this.#look(), { intervalMs: this.#intervalMs, signal: this.#stopping.signal, onError: () => {} })
    this.#look()
  }

  start(): void {}

  stop(): void {
    this.#stopping.abort(new Error('the node is stopping'))
  }

  #look(): void {
    const hosts = this.#machineHosts().filter((host) => isIPv4(host))
    for (const { multiaddr, verified, expires, type } of this.#addresses.getAddressesWithMetadata()) {
      const host = hostOf(multiaddr)
      const key = multiaddr.toString()
      // Once only: what AutoNAT says later stands.
      if (verified || expires > Date.now() || type !== 'transport' || host === null || !hosts.includes(host) || this.#believed.has(key))
        continue
      this.#believed.add(key)
      this.#addresses.confirmObservedAddr(multiaddr, { type: 'transport', ttl: BELIEF_MS })
    }
    // A network that was left takes what was believed of it along.
    for (const key of this.#believed) if (!hosts.some((host) => key.includes(`/${host}/`))) this.#believed.delete(key)
    this.#askAboutNew()
    const reach = this.publicAddresses().length > 0 ? 'public' : 'private'
    if (reach === this.#reach) return
    this.#reach = reach
    this.onChange?.(reach)
  }

  /** AutoNAT asks peers when they are identified only; a port that a router maps later would wait for the next peer that comes. */
  #askAboutNew(): void {
    const open = this.#addresses
      .getAddressesWithMetadata()
      .filter(({ multiaddr, verified, expires }) => !verified && expires <= Date.now() && isPublic(multiaddr))
      .map(({ multiaddr }) => multiaddr.toString())
    const hasNew = open.some((address) => !this.#unconfirmed.has(address))
    this.#unconfirmed = new Set(open)
    if (!hasNew) return
    const { connectionManager, identify } = this.#components
    const asked = connectionManager.getConnections().filter(({ remoteAddr }) => isPublic(remoteAddr))
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(IDENTIFY_MS)])
    // Who does not answer confirms nothing.
    for (const connection of asked.slice(0, MAX_ASKED)) identify.identify(connection, { signal }).catch(() => {})
  }
}

/** {@link Reachability} as a service of a libp2p node. */
export function reachability(init: ReachabilityInit = {}): (components: ReachabilityComponents) => Reachability {
  return (components) => new Reachability(components, init)
}

function isPublic(address: Multiaddr): boolean {
  const components = address.getComponents()
  if (components.some(({ name }) => name === 'p2p-circuit')) return false
  if (components.some(({ name }) => name === 'dns' || name === 'dns4' || name === 'dns6' || name === 'dnsaddr')) return true
  const host = hostOf(address)
  return host !== null && !isPrivateHost(host)
}

function publicHosts(): string[] {
  return Object.values(networkInterfaces()).flatMap((entries = []) =>
    entries.map(({ address }) => address).filter((address) => !isPrivateHost(address)),
  )
}
