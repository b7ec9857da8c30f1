import type { Connection, Libp2p } from '@libp2p/interface'
import { repeat } from '../repeat.ts'
import { linkKind } from './link-kind.ts'
import { pingOver } from './ping.ts'
import { isRelayed, relayOf } from './relay-desk.ts'

/** What is known of one connection's quality. */
export interface LinkQuality {
  /** Milliseconds; the least of the latest pings, since load only ever adds. */
  readonly rttMs: number
  /** Pings in a row without an answer. */
  readonly missed: number
}

export interface LinkWatchComponents {
  readonly mesh: Pick<Libp2p, 'getConnections' | 'addEventListener' | 'removeEventListener'>
  /** Ping of one connection; milliseconds. */
  readonly ping?: (connection: Connection, signal: AbortSignal) => Promise<number>
  /** Relays over which connections of several peers fell silent though the relay itself answers. */
  readonly onBadRelay: (relay: string) => void
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

const INTERVAL_MS = 5_000
/** A direct link answers within this unless it is dead; a relayed one has two legs, each perhaps over a slow line. */
const DIRECT_TIMEOUT_MS = 5_000
const RELAYED_TIMEOUT_MS = 10_000
/** Pings in a row that may stay unanswered. */
const MAX_MISSED = 2
const CONCURRENT_PINGS = 32
/** Pings of which the least counts. */
const RECENT_PINGS = 4
/** Peers behind one relay whose circuits may fall silent within the time below before the relay is blamed. */
const SUSPICIONS = 2
const SUSPICION_MS = 120_000

interface Watched {
  readonly rtts: number[]
  missed: number
}

/** Measures each connection's round trip, ends those that are dead though nobody closed them, and so lets others be tried. */
export class LinkWatch {
  readonly #components: LinkWatchComponents
  readonly #ping: (connection: Connection, signal: AbortSignal) => Promise<number>
  readonly #watched = new Map<string, Watched>()
  /** Relay → peer → when its circuit fell silent. */
  readonly #suspicions = new Map<string, Map<string, number>>()
  #stopping = new AbortController()

  constructor(components: LinkWatchComponents) {
    this.#components = components
    this.#ping = components.ping ?? pingOver
  }

  start(): void {
    this.#stopping = new AbortController()
    const { mesh, log } = this.#components
    mesh.addEventListener('connection:open', this.#onOpen)
    mesh.addEventListener('connection:close', this.#onClose)
    const onError = (error: Error): void => log('links.watch.failed', { reason: error.message })
    repeat(() => this.look(), { intervalMs: INTERVAL_MS, signal: this.#stopping.signal, onError })
  }

  stop(): void {
    const { mesh } = this.#components
    mesh.removeEventListener('connection:open', this.#onOpen)
    mesh.removeEventListener('connection:close', this.#onClose)
    this.#stopping.abort(new Error('the node is stopping'))
    this.#watched.clear()
  }

  /** Null before the first answer. */
  quality(connection: Connection): LinkQuality | null {
    const watched = this.#watched.get(connection.id)
    if (watched === undefined || watched.rtts.length === 0) return null
    return { rttMs: Math.min(...watched.rtts), missed: watched.missed }
  }

  /** Pings every connection once; resolves when each has answered or is given up. */
  async look(): Promise<void> {
    const waiting = [...this.#components.mesh.getConnections()]
    const next = async (): Promise<void> => {
      for (let connection = waiting.shift(); connection !== undefined; connection = waiting.shift()) await this.#check(connection)
    }
    await Promise.all(Array.from({ length: CONCURRENT_PINGS }, next))
  }

  readonly #onOpen = ({ detail }: CustomEvent<Connection>): void => void this.#check(detail)

  readonly #onClose = ({ detail }: CustomEvent<Connection>): void => void this.#watched.delete(detail.id)

  /** Never rejects. */
  async #check(connection: Connection): Promise<void> {
    if (connection.status !== 'open' || this.#stopping.signal.aborted) return
    let watched = this.#watched.get(connection.id)
    if (watched === undefined) this.#watched.set(connection.id, (watched = { rtts: [], missed: 0 }))
    const timeoutMs = isRelayed(connection) ? RELAYED_TIMEOUT_MS : DIRECT_TIMEOUT_MS
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(timeoutMs)])
    try {
      watched.rtts.push(await this.#ping(connection, signal))
      if (watched.rtts.length > RECENT_PINGS) watched.rtts.shift()
      watched.missed = 0
    } catch (error) {
      // One that speaks no ping is not dead.
      if (this.#stopping.signal.aborted || connection.status !== 'open' || !signal.aborted) return
      watched.missed++
      if (watched.missed >= MAX_MISSED) this.#end(connection, error as Error)
    }
  }

  #end(connection: Connection, error: Error): void {
    const peer = connection.remotePeer.toString()
    this.#components.log('link.silent', { peer, by: linkKind(connection) })
    connection.abort(new Error(`the link has been silent: ${error.message}`))
    const relay = relayOf(connection)
    if (relay === null) return
    const now = performance.now()
    const silent = this.#suspicions.get(relay) ?? new Map<string, number>()
    silent.set(peer, now)
    for (const [other, since] of silent) if (now - since > SUSPICION_MS) silent.delete(other)
    this.#suspicions.set(relay, silent)
    if (silent.size < SUSPICIONS) return
    this.#suspicions.delete(relay)
    this.#components.onBadRelay(relay)
  }
}
