import { createHash } from 'node:crypto'
import { ConfigError } from '../errors.ts'

/** What `--host` asks for. */
export type HostChoice =
  | { readonly kind: 'all' }
  | { readonly kind: 'none' }
  /** What the swarm needs most, within this node's budget; see `placement.ts`. */
  | { readonly kind: 'auto' }
  | { readonly kind: 'fraction'; readonly share: number }
  | { readonly kind: 'list'; readonly ranges: readonly { readonly layer: number; readonly first: number; readonly last: number }[] }

/** A shard, as far as choosing goes. */
export interface ShardRange {
  readonly cid: string
  readonly layer: number
  readonly first: number
  readonly last: number
}

/** Reads `all`, `none`, `auto`, `0.5`, or `<layer>:<first>-<last>,...`. Throws `ConfigError` naming the setting, `from`. */
export function parseHostChoice(text: string, from = '--host'): HostChoice {
  const value = text.trim()
  if (value === 'all' || value === 'none' || value === 'auto') return { kind: value }
  if (/^[0-9]*\.?[0-9]+$/.test(value)) {
    const share = Number(value)
    if (share > 0 && share <= 1) return { kind: 'fraction', share }
    throw new ConfigError(`${from} ${text}: a fraction must be above 0 and at most 1, for example 0.5`)
  }
  const ranges = value.split(',').map((part) => {
    const match = /^(\d{1,5}):(\d{1,5})(?:-(\d{1,5}))?$/.exec(part.trim())
    if (match === null)
      throw new ConfigError(
        `${from} ${text}: expected all, none, auto, a fraction such as 0.5, or <layer>:<first>-<last>,... but found "${part}"`,
      )
    const first = Number(match[2])
    const last = Number(match[3] ?? match[2])
    if (last < first) throw new ConfigError(`${from} ${text}: the range "${part}" ends before it begins`)
    return { layer: Number(match[1]), first, last }
  })
  return { kind: 'list', ranges }
}

/**
 * The shards that a choice means. A fraction takes whole layers, because a token that finds all its experts of a layer on one host costs
 * one call: those that rank first for this peer (rendezvous hashing), so that peers who ask for the same share hold different ones, and
 * of the last one as many shards as the share leaves. A listed range takes every shard that it touches. Throws `ConfigError` for a range
 * that the model does not have.
 */
export function chooseShards<T extends ShardRange>(choice: HostChoice, shards: readonly T[], peer: string): T[] {
  switch (choice.kind) {
    case 'all':
      return [...shards]
    case 'none':
    case 'auto':
      return []
    case 'fraction': {
      const ranked = [...Map.groupBy(shards, (shard) => shard.layer).values()]
        .sort(byRank(peer, (layer) => layer[0]!))
        .flatMap((layer) => layer.sort(byRank(peer, (shard) => shard)))
      const wanted = new Set(ranked.slice(0, Math.max(1, Math.round(choice.share * shards.length))).map((shard) => shard.cid))
      return shards.filter((shard) => wanted.has(shard.cid))
    }
    case 'list': {
      const chosen = new Set<T>()
      for (const range of choice.ranges) {
        const layer = shards.filter((shard) => shard.layer === range.layer)
        const touched = layer.filter((shard) => shard.first <= range.last && shard.last >= range.first)
        const end = layer.at(-1)
        if (end === undefined || range.last > end.last) {
          throw new ConfigError(
            end === undefined
              ? `--host: the model has no layer ${range.layer} with experts (it has them in layers ${shards[0]?.layer}-${shards.at(-1)?.layer})`
              : `--host: layer ${range.layer} has experts 0-${end.last}, not ${range.first}-${range.last}`,
          )
        }
        for (const shard of touched) chosen.add(shard)
      }
      return shards.filter((shard) => chosen.has(shard))
    }
  }
}

/** Orders by the hash of the peer's name and the shard's. */
function byRank<T>(peer: string, shardOf: (entry: T) => ShardRange): (a: T, b: T) => number {
  const rank = (entry: T): string =>
    createHash('sha256')
      .update(`${peer}/${shardOf(entry).cid}`)
      .digest('hex')
  return (a, b) => (rank(a) < rank(b) ? -1 : 1)
}
