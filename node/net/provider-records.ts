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

  constructor(init: { routing: ContentRouting; log: (event: string, fields: Record<string, unknown>) => void }) {
    this.#routing = init.routing
    this.#log = init.log
  }

  /** How many CIDs the DHT has accepted from this node. */
  get announced(): number {
    return this.#announced.size
  }

  /** Announces the CIDs; resolves when each was tried. A failed one is logged and tried again at the next call. */
  async announce(cids: readonly string[], signal: AbortSignal): Promise<void> {
    const waiting = cids.filter((cid) => !this.#announced.has(cid))
    const next = async (): Promise<void> => {
      for (let cid = waiting.shift(); cid !== undefined && !signal.aborted; cid = waiting.shift()) {
        try {
          await this.#routing.provide(CID.parse(cid), { signal: AbortSignal.any([signal, AbortSignal.timeout(PROVIDE_TIMEOUT_MS)]) })
          this.#announced.add(cid)
        } catch (error) {
          if (!signal.aborted) this.#log('dht.provide.failed', { cid, reason: (error as Error).message })
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
