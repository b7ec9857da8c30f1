import type { PeerId } from '@libp2p/interface'
import { CID } from 'multiformats/cid'
import { repeat } from '../repeat.ts'
import type { SwarmRouting } from './swarm-dht.ts'

/** Provides that may be under way at once: each walks the DHT with a dozen messages. */
const CONCURRENT_PROVIDES = 4
const PROVIDE_TIMEOUT_MS = 30_000
/** Looks whether something has to be announced (again). */
const TICK_MS = 1_000
/** Between two announcements in a swarm that does not grow: records live for an hour, and those who stored them leave. */
const RENEW_MS = 15 * 60_000
/** After a failed announcement. */
const RETRY_MS = 10_000

export interface ProviderRecordsInit {
  readonly routing: SwarmRouting
  /** Peers connected now. */
  readonly peers: () => number
  readonly log: (event: string, fields: Record<string, unknown>) => void
  /** Milliseconds of a clock that does not go back. */
  readonly now?: () => number
}

/** When, and with how many peers connected, a CID was announced. */
interface Announcement {
  readonly peers: number
  readonly dueAt: number
}

/**
 * Tells the DHT what this node serves, and asks it who serves what: one provider record per model, per shard, and for a relay.
 * A record is a hint; only a live call proves it. Records are stored by the peers that are known at the time, so each is announced again
 * when these have doubled in number, and before it runs out.
 */
export class ProviderRecords {
  readonly #init: ProviderRecordsInit
  readonly #now: () => number
  readonly #announced = new Map<string, Announcement>()
  readonly #announcing = new Set<string>()
  /** What was last asked for, by subject. */
  readonly #wanted = new Map<string, ReadonlySet<string>>()
  #stopping = new AbortController()

  constructor(init: ProviderRecordsInit) {
    this.#init = init
    this.#now = init.now ?? (() => performance.now())
  }

  start(): void {
    this.#stopping = new AbortController()
    const onError = (error: Error): void => this.#init.log('dht.announce.failed', { reason: error.message })
    repeat(() => this.tick(), { intervalMs: TICK_MS, signal: this.#stopping.signal, onError })
  }

  stop(): void {
    this.#stopping.abort(new Error('the node is stopping'))
  }

  /** How many CIDs were announced to somebody. */
  get announced(): number {
    return this.#announced.size
  }

  /**
   * Makes the CIDs what the DHT is told of a subject (a model, this node as a relay): those that are new are announced at once if there
   * are peers, those that are not among them any more run out.
   */
  announce(subject: string, cids: readonly string[]): void {
    const wanted = new Set(cids)
    const dropped = [...(this.#wanted.get(subject) ?? [])].filter((cid) => !wanted.has(cid))
    this.#wanted.set(subject, wanted)
    for (const cid of dropped) void this.#withdraw(cid)
    void this.tick()
  }

  /** Announces what is due; resolves when each was tried. A failed one is logged and tried again later. */
  async tick(): Promise<void> {
    const { signal } = this.#stopping
    const peers = this.#init.peers()
    if (peers === 0 || signal.aborted) return
    const waiting = [...this.#wanted.values()].flatMap((cids) => [...cids]).filter((cid) => this.#isDue(cid, peers))
    const next = async (): Promise<void> => {
      for (let cid = waiting.shift(); cid !== undefined && !signal.aborted; cid = waiting.shift()) {
        if (this.#isDue(cid, peers)) await this.#provide(cid)
      }
    }
    await Promise.all(Array.from({ length: CONCURRENT_PROVIDES - this.#announcing.size }, next))
  }

  /** Up to `limit` peers that say they serve the CID; ends early and quietly when `signal` fires. */
  async find(cid: string, limit: number, signal: AbortSignal): Promise<PeerId[]> {
    const peers: PeerId[] = []
    try {
      for await (const provider of this.#init.routing.findProviders(CID.parse(cid), { signal })) {
        peers.push(provider.id)
        if (peers.length >= limit) break
      }
    } catch (error) {
      if (!signal.aborted) this.#init.log('dht.find.failed', { cid, reason: (error as Error).message })
    }
    return peers
  }

  #isDue(cid: string, peers: number): boolean {
    if (this.#announcing.has(cid)) return false
    const last = this.#announced.get(cid)
    return last === undefined || peers >= 2 * last.peers || this.#now() >= last.dueAt
  }

  async #provide(cid: string): Promise<void> {
    const { routing, log } = this.#init
    const peers = this.#init.peers()
    const { signal } = this.#stopping
    this.#announcing.add(cid)
    try {
      await routing.provide(CID.parse(cid), { signal: AbortSignal.any([signal, AbortSignal.timeout(PROVIDE_TIMEOUT_MS)]) })
      this.#announced.set(cid, { peers, dueAt: this.#now() + RENEW_MS })
    } catch (error) {
      if (signal.aborted) return
      this.#announced.set(cid, { peers, dueAt: this.#now() + RETRY_MS })
      log('dht.provide.failed', { cid, reason: (error as Error).message })
    } finally {
      this.#announcing.delete(cid)
    }
    if (!this.#isWanted(cid)) await this.#withdraw(cid)
  }

  async #withdraw(cid: string): Promise<void> {
    if (this.#isWanted(cid)) return
    this.#announced.delete(cid)
    // What it forgets is only that it should be renewed.
    await this.#init.routing.cancelReprovide(CID.parse(cid)).catch(() => {})
  }

  #isWanted(cid: string): boolean {
    return [...this.#wanted.values()].some((cids) => cids.has(cid))
  }
}
