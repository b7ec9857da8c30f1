import { AsyncLocalStorage } from 'node:async_hooks'
import { circuitRelayServer } from '@libp2p/circuit-relay-v2'
import type { CircuitRelayServerComponents, CircuitRelayService } from '@libp2p/circuit-relay-v2'
import type { Connection, Stream } from '@libp2p/interface'
import { RelayBudget } from './relay-budget.ts'

/** What a node gives to those it relays for. */
export interface RelayQuota {
  readonly bytesPerMinute: number
  /** Peers that may be reached through this node at the same time. */
  readonly reservations: number
  /** Relayed connections that one peer may have open through this node, as caller or as called. */
  readonly circuitsPerPeer: number
}

export const RELAY_DEFAULTS: RelayQuota = Object.freeze({
  // 34 Mbit/s: about 200 decoded tokens a second of a model with 4 KiB vectors and 16 layers.
  bytesPerMinute: 256 * 1024 * 1024,
  reservations: 128,
  circuitsPerPeer: 64,
})

/** What a relay does at the moment. */
export interface RelayStats {
  readonly isOpen: boolean
  readonly reservations: number
  readonly circuits: number
  readonly bytes: number
}

/** A reservation outlives two missed renewals of a client that renews at half-time. */
const RESERVATION_TTL_MS = 60 * 60 * 1000

/** The inside of `@libp2p/circuit-relay-v2` 4.2.13's server on which metering rests. */
interface ServerInside {
  onHop(stream: Stream, connection: Connection): Promise<void>
  stopHop(stop: { connection: Connection; request: object }, options: object): Promise<Stream | undefined>
  start(): Promise<void>
  stop(): Promise<void>
}

interface Caller {
  readonly stream: Stream
  readonly peer: string
}

/**
 * Relays connections for peers that cannot be reached otherwise (circuit relay v2). The library's own limits of 128 KiB and two minutes
 * are lifted, so relayed connections count as ordinary ones; instead all share a byte rate and no peer gets more than its part of it.
 */
export class RelayServer {
  readonly #components: CircuitRelayServerComponents
  readonly #quota: RelayQuota
  #server: (CircuitRelayService & ServerInside) | null = null
  readonly #budget: RelayBudget
  readonly #circuits = new Map<string, number>()

  constructor(components: CircuitRelayServerComponents, quota: RelayQuota) {
    this.#components = components
    this.#quota = quota
    this.#budget = new RelayBudget(quota)
  }

  /** Begins to relay; peers connected learn of it by identify push. Idempotent. */
  async open(): Promise<void> {
    if (this.#server !== null) return
    const create = circuitRelayServer({
      reservations: { applyDefaultLimit: false, maxReservations: this.#quota.reservations, reservationTtl: RESERVATION_TTL_MS },
      maxInboundHopStreams: this.#quota.circuitsPerPeer,
      maxOutboundStopStreams: this.#quota.circuitsPerPeer,
    })
    const server = create(this.#components) as CircuitRelayService & ServerInside
    this.#meter(server)
    this.#server = server
    await server.start()
  }

  /** Ends all relayed connections. Idempotent. */
  async close(): Promise<void> {
    const server = this.#server
    this.#server = null
    await server?.stop()
  }

  stats(): RelayStats {
    let circuits = 0
    for (const count of this.#circuits.values()) circuits += count
    return {
      isOpen: this.#server !== null,
      reservations: this.#server?.reservations.size ?? 0,
      circuits: circuits / 2,
      bytes: this.#budget.moved,
    }
  }

  /** Called by libp2p as of any service. */
  async stop(): Promise<void> {
    await this.close()
  }

  /** Counts and slows what the server forwards: one of these methods gets the caller's stream, the other makes that to the called peer. */
  #meter(server: ServerInside): void {
    const callers = new AsyncLocalStorage<Caller>()
    const onHop = server.onHop.bind(server)
    const stopHop = server.stopHop.bind(server)
    server.onHop = (stream, connection) => callers.run({ stream, peer: connection.remotePeer.toString() }, () => onHop(stream, connection))
    server.stopHop = async (stop, options) => {
      const caller = callers.getStore()!
      const called = stop.connection.remotePeer.toString()
      if (this.#isFull(caller.peer) || this.#isFull(called)) return undefined
      const stream = await stopHop(stop, options)
      if (stream !== undefined) this.#watch(caller, { stream, peer: called })
      return stream
    }
  }

  #isFull(peer: string): boolean {
    return (this.#circuits.get(peer) ?? 0) >= this.#quota.circuitsPerPeer
  }

  #watch(caller: Caller, called: Caller): void {
    // The caller's share pays for both directions: it is the one that chose to use this relay.
    const spend = (bytes: number): number => this.#budget.spend(caller.peer, bytes)
    const stops = [throttle(caller.stream, called.stream, spend), throttle(called.stream, caller.stream, spend)]
    for (const { peer } of [caller, called]) this.#circuits.set(peer, (this.#circuits.get(peer) ?? 0) + 1)
    let isOpen = true
    const onClose = (): void => {
      if (!isOpen) return
      isOpen = false
      for (const stop of stops) stop()
      for (const { peer } of [caller, called]) {
        const left = this.#circuits.get(peer)! - 1
        if (left > 0) this.#circuits.set(peer, left)
        else this.#circuits.delete(peer)
      }
    }
    caller.stream.addEventListener('close', onClose, { once: true })
    called.stream.addEventListener('close', onClose, { once: true })
  }
}

/**
 * Pauses `from` for as long as `spend` says after each message forwarded to `to`, and while `to` takes no more: the library would
 * collect it all in memory. A stream that is paused lets its sender run out of window. Returns what ends it.
 */
function throttle(from: Stream, to: Stream, spend: (bytes: number) => number): () => void {
  const send = to.send.bind(to)
  let timer: NodeJS.Timeout | null = null
  let isFull = false
  const update = (): void => {
    if (from.status !== 'open' || from.readStatus === 'closing' || from.readStatus === 'closed') return
    if (isFull || timer !== null) from.pause()
    else from.resume()
  }
  const onDrain = (): void => {
    isFull = false
    update()
  }
  to.send = (data) => {
    isFull = !send(data)
    const waitMs = spend(data.byteLength)
    if (waitMs > 0 && timer === null) {
      timer = setTimeout(() => {
        timer = null
        update()
      }, waitMs)
    }
    if (isFull || timer !== null) update()
    return !isFull
  }
  to.addEventListener('drain', onDrain)
  return () => {
    to.removeEventListener('drain', onDrain)
    if (timer !== null) clearTimeout(timer)
  }
}

/** A {@link RelayServer} as a service of a libp2p node; closed until it is opened. */
export function relayServer(quota: RelayQuota = RELAY_DEFAULTS): (components: CircuitRelayServerComponents) => RelayServer {
  return (components) => new RelayServer(components, quota)
}
