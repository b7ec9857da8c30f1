import type { PeerId } from '@libp2p/interface'
import type { Multiaddr } from '@multiformats/multiaddr'
import { repeat } from '../repeat.ts'
import type { Mesh } from './mesh.ts'
import { describeFailure } from './rejoiner.ts'
import { operatorOf } from './operator.ts'
import { isRelayed, RELAY_PROTOCOL, WANTED_RELAYS } from './relay-desk.ts'
import type { RelayDesk } from './relay-desk.ts'

export interface RelayKeeperComponents {
  readonly desk: Pick<RelayDesk, 'held' | 'reserve' | 'onLost'>
  readonly mesh: Pick<Mesh, 'peerId' | 'getConnections' | 'dial' | 'peerStore' | 'services'>
  /** Peers that the DHT names as relays of the swarm. */
  readonly findRelays: (limit: number, signal: AbortSignal) => Promise<PeerId[]>
  /** Whether this node can't be reached without a relay. */
  readonly needsRelays: () => boolean
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

const TICK_MS = 1_000
const RESERVE_TIMEOUT_MS = 5_000
/** A relay is pinged this often; after so many pings in a row without an answer it is left. */
const PING_INTERVAL_MS = 3_000
const PING_TIMEOUT_MS = 3_000
const MAX_MISSED_PINGS = 2
/** How long a relay that refused, vanished or fell silent is not asked again while there are others. */
const AVOID_MS = 120_000
const MAX_AVOIDED = 256
/** Between two searches in the DHT while relays are missing: doubled from the first to the second. */
const FIRST_SEARCH_MS = 2_000
const MAX_SEARCH_MS = 60_000
const SEARCH_TIMEOUT_MS = 10_000
const MAX_FOUND = 16
const CONCURRENT_DIALS = 4
const DIAL_TIMEOUT_MS = 5_000

/** A relay that could be asked. */
interface Offer {
  readonly peer: PeerId
  readonly operator: string
}

/** Keeps a few reservations with different operators for a node that can't be reached directly, and replaces those that are lost. */
export class RelayKeeper {
  readonly #components: RelayKeeperComponents
  readonly #avoided = new Map<string, number>()
  readonly #missed = new Map<string, number>()
  #stopping = new AbortController()
  #isFilling = false
  #searchMs = FIRST_SEARCH_MS
  #searchedAt = -Infinity

  constructor(components: RelayKeeperComponents) {
    this.#components = components
  }

  start(): void {
    this.#stopping = new AbortController()
    const { signal } = this.#stopping
    const { desk, log } = this.#components
    const onError = (error: Error): void => log('relays.tick.failed', { reason: error.message })
    desk.onLost = () => void this.fill().catch(onError)
    repeat(() => this.fill(), { intervalMs: TICK_MS, signal, onError })
    repeat(() => this.#pingAll(), { intervalMs: PING_INTERVAL_MS, signal, onError })
  }

  stop(): void {
    this.#components.desk.onLost = null
    this.#stopping.abort(new Error('the node is stopping'))
  }

  /** Makes the reservations that are missing, as far as relays are known; looks for more when they are too few. */
  async fill(): Promise<void> {
    const { desk, needsRelays } = this.#components
    if (this.#isFilling || this.#stopping.signal.aborted || !needsRelays()) return
    if (desk.held().length >= WANTED_RELAYS) return
    this.#isFilling = true
    try {
      await this.#reserveFrom(await this.#offers())
      if (desk.held().length >= WANTED_RELAYS) this.#searchMs = FIRST_SEARCH_MS
      else await this.#search()
    } finally {
      this.#isFilling = false
    }
  }

  /** Leaves a relay that does not do its work: its connections end, and with them the reservation. */
  leave(relay: string, reason: string): void {
    const { mesh, log } = this.#components
    this.#avoid(relay)
    log('relay.left', { relay, reason })
    for (const connection of mesh.getConnections()) {
      if (connection.remotePeer.toString() === relay && !isRelayed(connection)) connection.abort(new Error(reason))
    }
  }

  async #reserveFrom(offers: readonly Offer[]): Promise<void> {
    const { desk, mesh, log } = this.#components
    const operators = new Set<string>()
    for (const { relay, connectionId } of desk.held()) {
      const connection = mesh.getConnections(relay).find(({ id }) => id === connectionId)
      if (connection !== undefined) operators.add(operatorOf(connection.remoteAddr, relay.toString()))
    }
    const waiting = [...offers]
    while (desk.held().length < WANTED_RELAYS && waiting.length > 0 && !this.#stopping.signal.aborted) {
      const batch = takeDiverse(waiting, WANTED_RELAYS - desk.held().length, operators)
      await Promise.all(
        batch.map(async ({ peer, operator }) => {
          const relay = peer.toString()
          try {
            await withDeadline(desk.reserve(peer), RESERVE_TIMEOUT_MS)
            operators.add(operator)
            this.#missed.delete(relay)
            log('relay.reserved', { relay })
          } catch (error) {
            this.#avoid(relay)
            log('relay.refused', { relay, reason: (error as Error).message })
          }
        }),
      )
    }
  }

  /** Connected peers that relay and where no reservation is held; those that failed lately only when there are no others. */
  async #offers(): Promise<Offer[]> {
    const { desk, mesh } = this.#components
    const held = new Set(desk.held().map(({ relay }) => relay.toString()))
    const offers = new Map<string, Offer>()
    for (const connection of mesh.getConnections()) {
      const peer = connection.remotePeer
      const id = peer.toString()
      if (held.has(id) || offers.has(id) || isRelayed(connection)) continue
      const known = await mesh.peerStore.get(peer).catch(() => null)
      if (known?.protocols.includes(RELAY_PROTOCOL) === true) offers.set(id, { peer, operator: operatorOf(connection.remoteAddr, id) })
    }
    const now = performance.now()
    const all = shuffle([...offers.values()])
    const fit = all.filter(({ peer }) => (this.#avoided.get(peer.toString()) ?? -Infinity) < now)
    return fit.length > 0 || held.size > 0 ? fit : all
  }

  /** Asks the DHT for relays and connects to those not connected yet; they are offers at the next tick, once identified. */
  async #search(): Promise<void> {
    const { mesh, findRelays, log } = this.#components
    if (performance.now() - this.#searchedAt < this.#searchMs) return
    this.#searchedAt = performance.now()
    this.#searchMs = Math.min(MAX_SEARCH_MS, this.#searchMs * 2)
    const { signal } = this.#stopping
    const found = await findRelays(MAX_FOUND, AbortSignal.any([signal, AbortSignal.timeout(SEARCH_TIMEOUT_MS)]))
    const strangers = found.filter((peer) => !peer.equals(mesh.peerId) && !mesh.getConnections(peer).some((one) => !isRelayed(one)))
    log('relay.search', { found: found.length, dialling: strangers.length })
    const next = async (): Promise<void> => {
      for (let peer = strangers.shift(); peer !== undefined && !signal.aborted; peer = strangers.shift()) {
        const id = peer.toString()
        try {
          // By address: for a peer that is connected through a relay already, dialling by its id would end with that.
          const { addresses } = await mesh.peerStore.get(peer)
          const direct = addresses.map(({ multiaddr }) => multiaddr).filter((address) => !isRelayed({ remoteAddr: address }))
          const dialable = direct.map((address) => (namesPeer(address) ? address : address.encapsulate(`/p2p/${id}`)))
          await mesh.dial(dialable, { signal: AbortSignal.any([signal, AbortSignal.timeout(DIAL_TIMEOUT_MS)]) })
        } catch (error) {
          // One that can't be reached is no relay for this node; the search goes on without it.
          log('relay.unreachable', { relay: id, reason: describeFailure(error as Error) })
        }
      }
    }
    await Promise.all(Array.from({ length: CONCURRENT_DIALS }, next))
  }

  async #pingAll(): Promise<void> {
    const { desk, mesh } = this.#components
    await Promise.all(
      desk.held().map(async ({ relay }) => {
        const id = relay.toString()
        const timeout = AbortSignal.timeout(PING_TIMEOUT_MS)
        try {
          await mesh.services.ping.ping(relay, { signal: AbortSignal.any([this.#stopping.signal, timeout]) })
          this.#missed.delete(id)
        } catch {
          // One that failed otherwise says nothing: libp2p refuses a second ping while another is under way.
          if (this.#stopping.signal.aborted || !timeout.aborted) return
          const missed = (this.#missed.get(id) ?? 0) + 1
          this.#missed.set(id, missed)
          if (missed < MAX_MISSED_PINGS) return
          this.#missed.delete(id)
          this.leave(id, `the relay did not answer ${missed} pings`)
        }
      }),
    )
  }

  #avoid(relay: string): void {
    this.#avoided.delete(relay)
    if (this.#avoided.size >= MAX_AVOIDED) this.#avoided.delete(this.#avoided.keys().next().value!)
    this.#avoided.set(relay, performance.now() + AVOID_MS)
  }
}

/** Takes up to `count` offers out of the list, those of operators not used yet first. */
function takeDiverse(offers: Offer[], count: number, used: ReadonlySet<string>): Offer[] {
  const taken: Offer[] = []
  const operators = new Set(used)
  for (const mayRepeat of [false, true]) {
    for (let i = 0; i < offers.length && taken.length < count;) {
      const offer = offers[i]!
      if (!mayRepeat && operators.has(offer.operator)) {
        i++
        continue
      }
      operators.add(offer.operator)
      taken.push(offer)
      offers.splice(i, 1)
    }
  }
  return taken
}

function namesPeer(address: Multiaddr): boolean {
  return address.getComponents().at(-1)?.name === 'p2p'
}

/** Spreads the swarm's nodes over its relays. */
function shuffle<T>(items: T[]): T[] {
  for (let i = items.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1))
    ;[items[i], items[j]] = [items[j]!, items[i]!]
  }
  return items
}

async function withDeadline(work: Promise<void>, ms: number): Promise<void> {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms)
  try {
    await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
