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
    return holders.length > 0 ? shuffled(holders) : await this.#others(model, shard.cid, signal)
  }

  /** Peers that host anything of the model, and the DHT's providers of its manifest. */
  ofModel(model: string, signal: AbortSignal): Promise<string[]> {
    return this.#others(model, model, signal)
  }

  async #others(model: string, cid: string, signal: AbortSignal): Promise<string[]> {
    const { self, view, isGone, records } = this.#components
    const hosts = [...view().authors].filter(([, author]) => author.holdings?.has(model) === true).map(([peer]) => peer)
    const providers = await records.find(cid, MAX_PROVIDERS, AbortSignal.any([signal, AbortSignal.timeout(FIND_TIMEOUT_MS)]))
    return [...new Set([...providers.map((provider) => provider.toString()), ...shuffled(hosts)])].filter(
      (peer) => peer !== self && !isGone(peer),
    )
  }
}

/** Who fetches at the same time as others shall not ask the same peer as they. */
function shuffled(peers: readonly string[]): string[] {
  return peers
    .map((peer) => ({ peer, rank: Math.random() }))
    .sort((a, b) => a.rank - b.rank)
    .map(({ peer }) => peer)
}
