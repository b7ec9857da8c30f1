import { createSocket } from 'node:dgram'
import type { RemoteInfo } from 'node:dgram'
import { networkInterfaces } from 'node:os'
import { peerDiscoverySymbol, TypedEventEmitter } from '@libp2p/interface'
import type { PeerDiscovery, PeerDiscoveryEvents, PeerDiscoveryProvider, PeerId } from '@libp2p/interface'
import type { TransportManager } from '@libp2p/interface-internal'
import { peerIdFromString } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import type { Multiaddr } from '@multiformats/multiaddr'
import multicastDns from 'multicast-dns'
import type { MulticastDNS, QueryPacket, ResponsePacket } from 'multicast-dns'
import { repeat } from '../repeat.ts'

export interface LinkLocalDiscoveryComponents {
  readonly peerId: PeerId
  readonly transportManager: Pick<TransportManager, 'getAddrs'>
}

export interface LinkLocalDiscoveryInit {
  /** Name of the swarm's service, as in mDNS over IPv4. */
  readonly serviceTag: string
  /** Addresses on which the node was told to listen. */
  readonly listen: readonly string[]
}

/** All mDNS responders of a link (RFC 6762). */
const GROUP = 'ff02::fb'
const QUERY_INTERVAL_MS = 10_000
/** Seconds for which an answer holds. */
const ANSWER_TTL = 120
/** Addresses taken from one answer: a machine has one on a link, seldom two. */
const MAX_ADDRESSES = 4
const LINK_LOCAL = /^fe[89ab][0-9a-f]:/i
const DNSADDR = 'dnsaddr='

/** A network interface with a link-local address. */
interface Link {
  /** As in `fe80::1%eth0`; a number on Windows. */
  readonly zone: string
  readonly address: string
}

/**
 * mDNS over link-local IPv6, for links on which machines have no other addresses: `@libp2p/mdns` asks over IPv4 only, and an address
 * of such a link can only be dialled with the name of the interface behind which it lies. Answers are of libp2p's mDNS format.
 */
export class LinkLocalDiscovery extends TypedEventEmitter<PeerDiscoveryEvents> implements PeerDiscoveryProvider {
  readonly #components: LinkLocalDiscoveryComponents
  readonly #init: LinkLocalDiscoveryInit
  readonly #links = new Map<string, MulticastDNS>()
  #stopping = new AbortController()

  constructor(components: LinkLocalDiscoveryComponents, init: LinkLocalDiscoveryInit) {
    super()
    this.#components = components
    this.#init = init
  }

  get [peerDiscoverySymbol](): PeerDiscovery {
    return this
  }

  /** Called by libp2p. */
  start(): void {
    this.#stopping = new AbortController()
    repeat(() => this.#ask(), { intervalMs: QUERY_INTERVAL_MS, signal: this.#stopping.signal, onError: () => {} })
    this.#ask()
  }

  async stop(): Promise<void> {
    this.#stopping.abort(new Error('the node is stopping'))
    const links = [...this.#links.values()]
    this.#links.clear()
    await Promise.all(links.map((mdns) => new Promise<void>((resolve) => mdns.destroy(resolve))))
  }

  /** Asks on every link there is now; interfaces come and go. */
  #ask(): void {
    const links = new Map(linksOf().map((link) => [`${link.address}%${link.zone}`, link]))
    for (const [key, mdns] of this.#links) {
      if (links.has(key)) continue
      this.#links.delete(key)
      mdns.destroy()
    }
    for (const [key, link] of links) if (!this.#links.has(key)) this.#links.set(key, this.#open(key, link))
    for (const mdns of this.#links.values()) mdns.query({ questions: [{ name: this.#init.serviceTag, type: 'PTR' }] })
  }

  #open(key: string, link: Link): MulticastDNS {
    const socket = createSocket({ type: 'udp6', reuseAddr: true, ipv6Only: true })
    const mdns = multicastDns({ type: 'udp6', ip: GROUP, interface: `::%${link.zone}`, bind: '::', socket })
    // Each socket hears what comes in on any of the links.
    const isOfLink = ({ address }: RemoteInfo): boolean => address.endsWith(`%${link.zone}`)
    mdns.on('query', (query, from) => void (isOfLink(from) && this.#answer(mdns, link, query)))
    mdns.on('response', (response, from) => void (isOfLink(from) && this.#learn(link, response)))
    // Another program may have the port for itself; the next round tries anew.
    mdns.on('error', () => {
      if (this.#links.get(key) === mdns) this.#links.delete(key)
      mdns.destroy()
    })
    // Packets of others may be malformed, and an interface may go down between two rounds.
    mdns.on('warning', () => {})
    return mdns
  }

  #answer(mdns: MulticastDNS, link: Link, { questions = [] }: QueryPacket): void {
    const { serviceTag } = this.#init
    if (!questions.some(({ name }) => name === serviceTag)) return
    const name = `${this.#components.peerId.toString()}.${serviceTag}`
    const addresses = this.#ports().map((port) => `/ip6/${link.address}/tcp/${port}/p2p/${this.#components.peerId.toString()}`)
    if (addresses.length === 0) return
    mdns.respond([
      { name: serviceTag, type: 'PTR', class: 'IN', ttl: ANSWER_TTL, data: name },
      ...addresses.map((address) => ({ name, type: 'TXT' as const, class: 'IN' as const, ttl: ANSWER_TTL, data: DNSADDR + address })),
    ])
  }

  /** Ports at which TCP comes in from every interface. */
  #ports(): string[] {
    const told = this.#init.listen.flatMap((address) => /^\/ip6\/::\/tcp\/(\d+)$/.exec(address)?.[1] ?? [])
    const open = this.#components.transportManager
      .getAddrs()
      .flatMap((address) => /^\/ip6\/.*\/tcp\/(\d+)$/.exec(address.toString())?.[1] ?? [])
    // Port 0 stands for the one that was found free.
    return [...new Set(open)].filter((port) => told.includes(port) || told.includes('0'))
  }

  #learn({ zone }: Link, { answers = [], additionals = [] }: ResponsePacket): void {
    const { serviceTag } = this.#init
    if (!answers.some((answer) => answer.type === 'PTR' && answer.name === serviceTag)) return
    const texts = [...answers, ...additionals].flatMap((answer) => (answer.type === 'TXT' ? [answer.data].flat() : []))
    const found = texts.slice(0, MAX_ADDRESSES).flatMap((text) => readAnswer(text.toString(), zone) ?? [])
    const [first] = found
    if (first === undefined || first.id.equals(this.#components.peerId)) return
    const multiaddrs = found.filter(({ id }) => id.equals(first.id)).map(({ address }) => address)
    this.safeDispatchEvent('peer', { detail: { id: first.id, multiaddrs } })
  }
}

/** {@link LinkLocalDiscovery} as one of libp2p's ways to discover peers. */
export function linkLocalDiscovery(init: LinkLocalDiscoveryInit): (components: LinkLocalDiscoveryComponents) => LinkLocalDiscovery {
  return (components) => new LinkLocalDiscovery(components, init)
}

/** Peer and dialable address of one text of an answer that came in over the interface `zone`; null for anything but a link-local TCP address: nobody may direct dials elsewhere. */
export function readAnswer(text: string, zone: string): { id: PeerId; address: Multiaddr } | null {
  if (!text.startsWith(DNSADDR)) return null
  try {
    const [ip, tcp, p2p, ...rest] = multiaddr(text.slice(DNSADDR.length)).getComponents()
    if (ip?.name !== 'ip6' || tcp?.name !== 'tcp' || p2p?.name !== 'p2p' || rest.length > 0 || !LINK_LOCAL.test(ip.value!)) return null
    return { id: peerIdFromString(p2p.value!), address: multiaddr(`/ip6zone/${zone}/ip6/${ip.value}/tcp/${tcp.value}`) }
  } catch {
    return null
  }
}

function linksOf(): Link[] {
  return Object.entries(networkInterfaces()).flatMap(([name, entries = []]) =>
    entries.flatMap((entry) => {
      if (entry.internal || entry.family !== 'IPv6' || !LINK_LOCAL.test(entry.address)) return []
      return [{ zone: process.platform === 'win32' ? String(entry.scopeid) : name, address: entry.address }]
    }),
  )
}
