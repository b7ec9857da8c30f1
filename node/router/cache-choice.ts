/** A shard as its use by this node's own queries goes. */
export interface UsedShard {
  readonly cid: string
  readonly bytes: number
  /** Rows per second that this node's drivers route to its experts. */
  readonly picksPerSecond: number
  readonly isCached: boolean
}

export interface CacheProblem {
  /** Shards that this node does not serve to others anyway. */
  readonly shards: readonly UsedShard[]
  readonly budgetBytes: number
  /** What a pick costs on the wire, both ways, while its expert is elsewhere. */
  readonly bytesPerPick: number
}

export interface CacheChoice {
  readonly fetch: readonly string[]
  readonly drop: readonly string[]
}

/** A shard is worth fetching when the calls of so long would cost more bytes than it has: the push-or-pull break-even. */
const HORIZON_S = 600
/** A cached shard gives way only to one that is used this many times more for its bytes. */
const HYSTERESIS = 1.5

/** Which shards to keep for own queries: those used most for their bytes, as far as fetching pays and fits. Pure. */
export function chooseCached({ shards, budgetBytes, bytesPerPick }: CacheProblem): CacheChoice {
  const pays = ({ bytes, picksPerSecond }: UsedShard): boolean => picksPerSecond * bytesPerPick * HORIZON_S > bytes
  const density = ({ bytes, picksPerSecond, isCached }: UsedShard): number => (picksPerSecond / bytes) * (isCached ? HYSTERESIS : 1)
  const ranked = [...shards]
    .filter((shard) => shard.isCached || pays(shard))
    .sort((a, b) => density(b) - density(a) || (a.cid < b.cid ? -1 : 1))
  const kept = new Set<UsedShard>()
  let used = 0
  for (const shard of ranked) {
    if (used + shard.bytes > budgetBytes) continue
    used += shard.bytes
    kept.add(shard)
  }
  return {
    fetch: ranked.filter((shard) => kept.has(shard) && !shard.isCached).map(({ cid }) => cid),
    drop: ranked.filter((shard) => shard.isCached && !kept.has(shard)).map(({ cid }) => cid),
  }
}
