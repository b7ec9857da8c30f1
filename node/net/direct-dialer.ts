import { networkInterfaces } from 'node:os'
import { BlockList, isIPv4, isIPv6 } from 'node:net'
import type { Connection, PeerId, PeerUpdate } from '@libp2p/interface'
import type { Multiaddr } from '@multiformats/multiaddr'
import { repeat } from '../repeat.ts'
import { isQuic } from './dial-order.ts'
import { linkKind } from './link-kind.ts'
import type { Mesh } from './mesh.ts'
import { hostOf, isPrivateHost } from './operator.ts'
import { isRelayed } from './relay-desk.ts'
import { describeFailure } from './rejoiner.ts'

export interface DirectDialerComponents {
  readonly mesh: Pick<Mesh, 'dial' | 'getConnections' | 'peerStore' | 'addEventListener' | 'removeEventListener'>
  readonly log: (event: string, fields: Record<string, unknown>) => void
  /** Networks that this machine is in, as CIDR. Default: those of its interfaces, loopback left out. */
  readonly networks?: () => readonly string[]
}

/** After a relayed connection opened: identification tells the peer's addresses. */
const FIRST_MS = 500
/** Between two tries at the same addresses: networks and firewalls change. */
const AGAIN_MS = 60_000
const DIAL_TIMEOUT_MS = 6_000
const CONCURRENT_DIALS = 8

/**
 * Dials peers that are reached through relays only at addresses of their own: a router may have been asked to let them be reached, or they
 * are on the same network. Holes are punched besides, and for those that have no such address.
 */
export class DirectDialer {
  readonly #components: DirectDialerComponents
  readonly #dialling = new Set<string>()
  /** Peer → why the last dial failed. */
  readonly #failures = new Map<string, string>()
  #stopping = new AbortController()

  constructor(components: DirectDialerComponents) {
    this.#components = components
  }

  start(): void {
    this.#stopping = new AbortController()
    const { mesh } = this.#components
    mesh.addEventListener('connection:open', this.#onOpen)
    mesh.addEventListener('peer:update', this.#onUpdate)
    mesh.addEventListener('peer:disconnect', this.#onDisconnect)
    repeat(() => this.#tryAll(), { intervalMs: AGAIN_MS, signal: this.#stopping.signal, onError: () => {} })
  }

  stop(): void {
    const { mesh } = this.#components
    mesh.removeEventListener('connection:open', this.#onOpen)
    mesh.removeEventListener('peer:update', this.#onUpdate)
    mesh.removeEventListener('peer:disconnect', this.#onDisconnect)
    this.#stopping.abort(new Error('the node is stopping'))
    this.#failures.clear()
  }

  /** Why the peer's own addresses did not answer; null when none was tried, or one did. */
  failure(peer: string): string | null {
    return this.#failures.get(peer) ?? null
  }

  readonly #onOpen = ({ detail }: CustomEvent<Connection>): void => {
    if (!isRelayed(detail)) return void this.#failures.delete(detail.remotePeer.toString())
    const timer = setTimeout(() => {
      this.#stopping.signal.removeEventListener('abort', onAbort)
      void this.#try(detail.remotePeer)
    }, FIRST_MS)
    const onAbort = (): void => clearTimeout(timer)
    this.#stopping.signal.addEventListener('abort', onAbort, { once: true })
  }

  readonly #onUpdate = ({ detail: { peer, previous } }: CustomEvent<PeerUpdate>): void => {
    const known = new Set((previous?.addresses ?? []).map(({ multiaddr }) => multiaddr.toString()))
    const added = peer.addresses.map(({ multiaddr }) => multiaddr).filter((address) => !known.has(address.toString()))
    if (this.#worthDialling(added).length > 0) void this.#try(peer.id)
  }

  readonly #onDisconnect = ({ detail }: CustomEvent<PeerId>): void => void this.#failures.delete(detail.toString())

  async #tryAll(): Promise<void> {
    const peers = new Map(this.#components.mesh.getConnections().map(({ remotePeer }) => [remotePeer.toString(), remotePeer]))
    await Promise.all([...peers.values()].map((peer) => this.#try(peer)))
  }

  /** Never rejects. */
  async #try(id: PeerId): Promise<void> {
    const { mesh, log } = this.#components
    const peer = id.toString()
    const { signal } = this.#stopping
    const connections = mesh.getConnections(id)
    if (signal.aborted || connections.length === 0 || !connections.every(isRelayed)) return
    if (this.#dialling.has(peer) || this.#dialling.size >= CONCURRENT_DIALS) return
    this.#dialling.add(peer)
    try {
      const { addresses } = await mesh.peerStore.get(id)
      const worth = this.#worthDialling(addresses.map(({ multiaddr }) => multiaddr))
      if (worth.length === 0) return
      const named = worth.map((address) => (address.getComponents().at(-1)?.name === 'p2p' ? address : address.encapsulate(`/p2p/${peer}`)))
      log('direct.opened', { peer, by: linkKind(await this.#dial(named)) })
    } catch (error) {
      if (signal.aborted) return
      this.#failures.set(peer, describeFailure(error as Error))
      log('direct.failed', { peer, reason: describeFailure(error as Error) })
    } finally {
      this.#dialling.delete(peer)
    }
  }

  /** QUIC has a turn of its own, for a firewall that keeps TCP out lets it use up the whole time. Rejects with why TCP failed, if it was tried. */
  async #dial(addresses: readonly Multiaddr[]): Promise<Connection> {
    const { mesh } = this.#components
    const turns = [addresses.filter((address) => !isQuic(address)), addresses.filter(isQuic)].filter(({ length }) => length > 0)
    const failures: Error[] = []
    for (const turn of turns) {
      const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(DIAL_TIMEOUT_MS)])
      try {
        // Without force the relayed connection would be taken for good enough.
        return await mesh.dial(turn, { force: true, signal })
      } catch (error) {
        failures.push(error as Error)
      }
    }
    throw failures[0]!
  }

  #worthDialling(addresses: readonly Multiaddr[]): Multiaddr[] {
    const near = new BlockList()
    for (const network of (this.#components.networks ?? ownNetworks)()) {
      const [host, prefix] = network.split('/') as [string, string]
      near.addSubnet(host, Number(prefix), isIPv4(host) ? 'ipv4' : 'ipv6')
    }
    return addresses.filter((address) => {
      const host = hostOf(address)
      if (host === null || isRelayed({ remoteAddr: address })) return false
      if (!isPrivateHost(host)) return true
      return isIPv4(host) ? near.check(host, 'ipv4') : isIPv6(host) && near.check(host, 'ipv6')
    })
  }
}

function ownNetworks(): string[] {
  return Object.values(networkInterfaces()).flatMap((entries = []) =>
    entries.flatMap(({ cidr, internal, address }) => (internal || cidr === null || address.startsWith('fe80:') ? [] : [cidr])),
  )
}
