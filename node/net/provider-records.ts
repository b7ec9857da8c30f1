import type { ContentRouting, PeerId } from '@libp2p/interface'
import { CID } from 'multiformats/cid'

/** Provides that may be under way at once: each walks the DHT with a dozen messages. */
const CONCURRENT_PROVIDES = 4
const PROVIDE_TIMEOUT_MS = 30_000

/**
 * Tells the DHT what this node serves, and asks it who serves what: one provider record per model and one per shard.
 * A record is a hint; only a live call proves it. The DHT itself renews what was provided.
 */
export class ProviderRecords {
  readonly #routing: ContentRouting
  readonly #log: (event: string, fields: Record<string, unknown>) => void
  readonly #announced = new Set<string>()
  readonly #announcing = new Set<string>()
  /** What was last asked for, by subject. */
  readonly #wanted = new Map<string, ReadonlySet<string>>()

  constructor(init: { routing: ContentRouting; log: (event: string, fields: Record<string, unknown>) => void }) {
    this.#routing = init.routing
    this.#log = init.log
  }

  /** How many CIDs the DHT has accepted from this node. */
  get announced(): number {
    return this.#announced.size
  }

  /**
   * Makes the CIDs what the DHT is told of a subject (a model, this node as a relay): announces those that are new, and lets run out those that are not among them any more.
   * Resolves when each was tried; a failed one is logged and tried again at the next call.
   */
  async announce(subject: string, cids: readonly string[], signal: AbortSignal): Promise<void> {
    const wanted = new Set(cids)
    const before = this.#wanted.get(subject) ?? new Set()
    this.#wanted.set(subject, wanted)
    const dropped = [...before].filter((cid) => !wanted.has(cid))
    for (const cid of dropped) this.#announced.delete(cid)
    await Promise.all(dropped.map((cid) => this.#routing.cancelReprovide(CID.parse(cid), { signal }).catch(() => {})))
    const waiting = cids.filter((cid) => !this.#announced.has(cid) && !this.#announcing.has(cid))
    const next = async (): Promise<void> => {
      for (let cid = waiting.shift(); cid !== undefined && !signal.aborted; cid = waiting.shift()) {
        this.#announcing.add(cid)
        try {
          await this.#routing.provide(CID.parse(cid), { signal: AbortSignal.any([signal, AbortSignal.timeout(PROVIDE_TIMEOUT_MS)]) })
          this.#announced.add(cid)
        } catch (error) {
          if (!signal.aborted) this.#log('dht.provide.failed', { cid, reason: (error as Error).message })
        } finally {
          this.#announcing.delete(cid)
        }
      }
    }
    await Promise.all(Array.from({ length: CONCURRENT_PROVIDES }, next))
  }

  /** Up to `limit` peers that say they serve the CID; ends early and quietly when `signal` fires. */
  async find(cid: string, limit: number, signal: AbortSignal): Promise<PeerId[]> {
    const peers: PeerId[] = []
    try {
      for await (const provider of this.#routing.findProviders(CID.parse(cid), { signal })) {
        peers.push(provider.id)
        if (peers.length >= limit) break
      }
    } catch (error) {
      if (!signal.aborted) this.#log('dht.find.failed', { cid, reason: (error as Error).message })
    }
    return peers
  }
}
