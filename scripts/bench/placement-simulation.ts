import { Xoshiro128 } from '../../node/engine/random.ts'
import { matesOf, place } from '../../node/router/placement.ts'
import type { ShardPair } from '../../node/router/placement.ts'

/** A model as the simulation needs it: equal shards, layer by layer. */
export interface SimulatedModel {
  readonly layers: number
  readonly perLayer: number
  readonly shardBytes: number
  /** By shard. */
  readonly heat: Float64Array
  readonly pairs: readonly ShardPair[]
}

export interface SimulationInit {
  readonly model: SimulatedModel
  readonly nodes: number
  /** What a node may hold, as shares of the model: drawn uniformly between the two. */
  readonly budget: readonly [number, number]
  /** Chance of each node to be replaced by a new one in a round. */
  readonly churn: number
  readonly rounds: number
  readonly seed: number
}

/** How the swarm stands after a round. */
export interface RoundState {
  /** Shares of the shards that have at least one, and at least two hosts. */
  readonly covered: number
  readonly doubled: number
  readonly movedBytes: number
}

interface SimulatedNode {
  readonly budgetBytes: number
  readonly held: Set<number>
  readonly seed: number
}

export interface SimulationResult {
  readonly rounds: readonly RoundState[]
  /** Sets of shards, by node. */
  readonly placement: readonly ReadonlySet<number>[]
  /** As many shards for each node, drawn at random. */
  readonly random: readonly ReadonlySet<number>[]
  /** Mean hosts of the hottest tenth of the shards, and of all. */
  readonly hotReplicas: number
  readonly meanReplicas: number
}

/**
 * Rounds of a swarm in which every node places by itself on what it saw the round before: as a ledger tells it, a few seconds old. Nodes
 * come and go; a new one begins empty. Bytes are moved within the round.
 */
export function simulate(init: SimulationInit): SimulationResult {
  const { model, churn, seed } = init
  const random = Xoshiro128.fromSeed(seed)
  const shards = model.layers * model.perLayer
  const join = (): SimulatedNode => {
    const share = init.budget[0] + random.nextFloat() * (init.budget[1] - init.budget[0])
    const budgetBytes = Math.max(1, Math.round(share * shards)) * model.shardBytes
    return { budgetBytes, held: new Set(), seed: random.nextUint32() }
  }
  const nodes = Array.from({ length: init.nodes }, join)
  const rounds: RoundState[] = []
  const layerOf = (i: number): number => Math.floor(i / model.perLayer)
  const mates = matesOf(
    Array.from({ length: shards }, (_, i) => ({ layer: layerOf(i) })),
    model.pairs,
  )
  const names = Array.from({ length: shards }, (_, i) => `shard-${i}`)
  for (let round = 0; round < init.rounds; round++) {
    // The first rounds show how an empty swarm fills; then it is shaken.
    if (round >= CALM_ROUNDS) nodes.forEach((_, i) => random.nextFloat() < churn && (nodes[i] = join()))
    const replicas = countReplicas(nodes, shards)
    let movedBytes = 0
    const plans = nodes.map((node) => {
      const placed = names.map((cid, i) => ({
        cid,
        layer: layerOf(i),
        bytes: model.shardBytes,
        others: replicas[i]! - (node.held.has(i) ? 1 : 0),
        heat: model.heat[i]!,
      }))
      return place({
        models: [{ id: 'model', shards: placed, mates }],
        held: new Set([...node.held].map((i) => names[i]!)),
        pinned: new Set(),
        budgetBytes: node.budgetBytes,
        isRelayed: false,
        nodes: nodes.length,
        seed: node.seed + round,
      })
    })
    plans.forEach(({ fetch, drop }, i) => {
      const { held } = nodes[i]!
      for (const { cid } of drop) held.delete(Number(cid.slice('shard-'.length)))
      for (const { cid } of fetch) held.add(Number(cid.slice('shard-'.length)))
      movedBytes += fetch.length * model.shardBytes
    })
    const after = countReplicas(nodes, shards)
    rounds.push({ covered: shareOf(after, 1), doubled: shareOf(after, 2), movedBytes })
  }
  const last = countReplicas(nodes, shards)
  const hottest = [...last.keys()].sort((a, b) => model.heat[b]! - model.heat[a]!).slice(0, Math.ceil(shards / 10))
  return {
    rounds,
    placement: nodes.map((node) => node.held),
    random: nodes.map((node) => drawn(random, shards, node.held.size)),
    hotReplicas: mean(hottest.map((i) => last[i]!)),
    meanReplicas: mean([...last]),
  }
}

/** Rounds before nodes begin to come and go. */
export const CALM_ROUNDS = 20

/** Fewest hosts that hold all the shards of one token's layer, found greedily; Infinity when one is nowhere. */
export function hostsNeeded(shards: readonly number[], holders: readonly (readonly number[])[]): number {
  const left = new Set(shards)
  let hosts = 0
  while (left.size > 0) {
    const gains = new Map<number, number>()
    for (const shard of left) for (const host of holders[shard]!) gains.set(host, (gains.get(host) ?? 0) + 1)
    let best = -1
    for (const [host, gain] of gains) if (best === -1 || gain > gains.get(best)!) best = host
    if (best === -1) return Infinity
    hosts++
    for (const shard of left) if (holders[shard]!.includes(best)) left.delete(shard)
  }
  return hosts
}

/** Which nodes hold each shard. */
export function holdersOf(placement: readonly ReadonlySet<number>[], shards: number): number[][] {
  const holders = Array.from({ length: shards }, (): number[] => [])
  placement.forEach((held, node) => held.forEach((shard) => holders[shard]!.push(node)))
  return holders
}

function countReplicas(nodes: readonly SimulatedNode[], shards: number): Uint32Array {
  const replicas = new Uint32Array(shards)
  for (const { held } of nodes) for (const shard of held) replicas[shard]!++
  return replicas
}

function shareOf(replicas: Uint32Array, least: number): number {
  return replicas.reduce((sum, count) => sum + (count >= least ? 1 : 0), 0) / replicas.length
}

function drawn(random: Xoshiro128, shards: number, count: number): Set<number> {
  const set = new Set<number>()
  while (set.size < count) set.add(Math.floor(random.nextFloat() * shards))
  return set
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length
}
