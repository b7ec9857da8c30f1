import type { LedgerView } from '../../crdt/index.ts'
import type { ShardEntry } from '../model/manifest.ts'
import type { ProviderRecords } from '../net/provider-records.ts'

export interface BlobSourcesComponents {
  /** This node's peer id. */
  readonly self: string
  readonly view: () => LedgerView
  /** Whether a peer in the view is known to be gone. */
  readonly isGone: (peer: string) => boolean
  readonly records: Pick<ProviderRecords, 'find'>
  /** How fast peers sent before; null for those of which nothing is known. */
  readonly bytesPerSecond: (peer: string) => number | null
}

/** Providers asked of the DHT for one blob. */
const MAX_PROVIDERS = 8
const FIND_TIMEOUT_MS = 5_000

/** Which peers may have a blob: those whose ledger records say so, else those that the DHT names. */
export class BlobSources {
  readonly #components: BlobSourcesComponents

  constructor(components: BlobSourcesComponents) {
    this.#components = components
  }

  /** Hosts of the shard; where there are none, peers that host anything of the model, and the DHT's providers. */
  async ofShard(model: string, shard: ShardEntry, signal: AbortSignal): Promise<string[]> {
    const { self, view, isGone } = this.#components
    const holders = view()
      .holders(model, shard.layer, shard.first)
      .filter((peer) => peer !== self && !isGone(peer))
    return holders.length > 0 ? this.#ordered(holders) : await this.#others(model, shard.cid, signal)
  }

  /** Peers that host anything of the model, and the DHT's providers of its manifest. */
  ofModel(model: string, signal: AbortSignal): Promise<string[]> {
    return this.#others(model, model, signal)
  }

  async #others(model: string, cid: string, signal: AbortSignal): Promise<string[]> {
    const { self, view, isGone, records } = this.#components
    const hosts = [...view().authors].filter(([, author]) => author.holdings?.has(model) === true).map(([peer]) => peer)
    const providers = await records.find(cid, MAX_PROVIDERS, AbortSignal.any([signal, AbortSignal.timeout(FIND_TIMEOUT_MS)]))
    return [...new Set([...providers.map((provider) => provider.toString()), ...this.#ordered(hosts)])].filter(
      (peer) => peer !== self && !isGone(peer),
    )
  }

  /**
   * Fast peers mostly first: a peer's chance to come before another is in proportion to what it sends a second. Who fetches at the same
   * time as others shall not ask the same peer as they, and one of which nothing is known counts as the middle of those that are known.
   */
  #ordered(peers: readonly string[]): string[] {
    const rates = peers.map((peer) => this.#components.bytesPerSecond(peer))
    const known = rates.filter((rate) => rate !== null).sort((a, b) => a - b)
    const usual = known[known.length >> 1] ?? 1
    return peers
      .map((peer, i) => ({ peer, rank: -Math.log(1 - Math.random()) / (rates[i] ?? usual) }))
      .sort((a, b) => a.rank - b.rank)
      .map(({ peer }) => peer)
  }
}
