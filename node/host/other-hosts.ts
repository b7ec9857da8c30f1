import type { LedgerView } from '../../crdt/index.ts'
import type { ShardEntry } from '../model/manifest.ts'
import { TARGET_REPLICAS } from '../router/placement.ts'

export interface OtherHostsComponents {
  /** This node's peer id. */
  readonly self: string
  readonly view: () => LedgerView
  /** Whether a peer in the view is known to be gone. */
  readonly isGone: (peer: string) => boolean
  /** Finds out whether peers are gone; resolves when it is known. */
  readonly verify: (peers: Iterable<string>) => Promise<void>
}

/** The live hosts besides this node that state to serve a shard and to go on doing so. */
export class OtherHosts {
  readonly #components: OtherHostsComponents

  constructor(components: OtherHostsComponents) {
    this.#components = components
  }

  /** Those of the shard's rarest expert, sorted. */
  of(model: string, { layer, first, last }: ShardEntry): readonly string[] {
    const { view, self, isGone } = this.#components
    const ledger = view()
    let rarest: readonly string[] | null = null
    for (let expert = first; expert <= last; expert++) {
      const hosts = ledger.stayers(model, layer, expert).filter((peer) => peer !== self && !isGone(peer))
      if (rarest === null || hosts.length < rarest.length) rarest = hosts
    }
    return rarest ?? []
  }

  /** Makes sure of the only hosts of shards: a record outlives its author for a while. Resolves when it is known which of them are gone. */
  async verify(shards: Iterable<{ readonly model: string; readonly shard: ShardEntry }>): Promise<void> {
    const relied = new Set<string>()
    for (const { model, shard } of shards) {
      const hosts = this.of(model, shard)
      if (hosts.length <= TARGET_REPLICAS) for (const peer of hosts) relied.add(peer)
    }
    await this.#components.verify(relied)
  }

  /** Other live nodes that take up what the swarm needs, and the bytes that each may fill; none that is about to leave. */
  takers(): ReadonlyMap<string, number> {
    const { view, self, isGone } = this.#components
    const takers = new Map<string, number>()
    for (const [peer, { profile, leaving }] of view().authors) {
      if (peer === self || isGone(peer) || profile?.budgetBytes === undefined || (leaving?.size ?? 0) > 0) continue
      takers.set(peer, profile.budgetBytes)
    }
    return takers
  }
}
