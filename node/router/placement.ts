/**
 * Which shards a node should hold: a pure function of what it sees of the swarm, what it holds, and what it may take. Nodes decide alone;
 * chance, not agreement, keeps them from all doing the same.
 */

/** A shard, as far as placement goes. */
export interface PlacedShard {
  readonly cid: string
  readonly layer: number
  readonly bytes: number
  /** Live hosts besides this node. */
  readonly others: number
  /** Tokens per second that the swarm routes to its experts, or any measure in proportion. */
  readonly heat: number
}

/** How often a token needs two shards of a layer together: indexes into the model's shards. */
export interface ShardPair {
  readonly a: number
  readonly b: number
  readonly rate: number
}

export interface PlacedModel {
  readonly id: string
  readonly shards: readonly PlacedShard[]
  readonly mates: Mates
}

/** For each shard, those that tokens use beside it, by index, and how often; see {@link matesOf}. */
export type Mates = readonly ReadonlyMap<number, number>[]

/** Where nothing was measured of a layer, all its shards count as used together alike. Pure. */
export function matesOf(shards: readonly Pick<PlacedShard, 'layer'>[], pairs: readonly ShardPair[]): Mates {
  const mates = shards.map(() => new Map<number, number>())
  const measured = new Set<number>()
  const add = (from: number, to: number, rate: number): void => void mates[from]!.set(to, (mates[from]!.get(to) ?? 0) + rate)
  for (const { a, b, rate } of pairs) {
    if (a === b || rate <= 0 || shards[a] === undefined || shards[b] === undefined) continue
    add(a, b, rate)
    add(b, a, rate)
    measured.add(shards[a].layer)
  }
  const byLayer = Map.groupBy(shards.keys(), (i) => shards[i]!.layer)
  for (const [layer, members] of byLayer) {
    if (measured.has(layer)) continue
    for (const a of members) for (const b of members) if (a !== b) add(a, b, 1)
  }
  return mates
}

export interface PlacementProblem {
  readonly models: readonly PlacedModel[]
  /** CIDs of the shards served here, and those of them that must stay. */
  readonly held: ReadonlySet<string>
  readonly pinned: ReadonlySet<string>
  readonly budgetBytes: number
  /** Only reachable through a relay: such a node covers what nobody else does, and leaves hot experts to others. */
  readonly isRelayed: boolean
  /** Live nodes, this one included, that see the same needs. */
  readonly nodes: number
  /** Differs from node to node and from round to round; equal seeds give equal placements. */
  readonly seed: number
}

export interface ShardRef {
  readonly model: string
  readonly cid: string
}

/** To be done in this order: what is fetched serves before what is dropped goes. */
export interface Placement {
  readonly fetch: readonly ShardRef[]
  readonly drop: readonly ShardRef[]
}

/** Hosts that every expert should have: one may die at any time. */
export const TARGET_REPLICAS = 2
/** Worth of a shard that nobody else serves, and of one that too few do; beyond, it is heat relative to the average over the hosts. */
const UNCOVERED_WORTH = 1_000
const RARE_WORTH = 100
/** Share of its worth that a shard has where no other shard of its layer is held; the rest comes with those that tokens use beside it. */
const WORTH_ALONE = 0.1
/** A replica beyond the target that is worth less than this is not worth its bytes: an average expert has 8 others. */
const LEAST_WORTH = 0.12
/** A shard gives way only to one that is worth this many times more: moving costs bytes, and measures fluctuate. */
const HYSTERESIS = 1.5
/** Expected number of nodes that take up one missing replica in a round: with fewer, rounds would pass in which nobody does. */
const TAKERS = 3
/** Expected number of nodes that add replicas of a layer beyond the target in a round, and shards that one adds or swaps at most. Nothing hurries. */
const EXTRA_TAKERS = 2
const EXTRA_SHARDS = 4
const SWAPS = 2
/** Spread between shards of equal worth. */
const NOISE = 0.2

interface Item {
  readonly model: number
  readonly index: number
  readonly shard: PlacedShard
  readonly ref: ShardRef
  isHeld: boolean
}

/**
 * Covers what nobody serves, then brings every shard to {@link TARGET_REPLICAS}, then adds replicas by heat and rarity; of a layer it
 * takes what tokens use together, so that a token needs few hosts. A layer's need is answered by each node with a chance that makes about
 * {@link TAKERS} of them act. Pure.
 */
export function place(problem: PlacementProblem): Placement {
  const board = new Board(problem)
  const fetch: Item[] = []
  const drop: Item[] = []
  const { budgetBytes } = problem

  while (board.heldBytes > budgetBytes) {
    const least = board.leastWorth(() => true)
    if (least === null) break
    board.release(least)
    drop.push(least)
  }

  const wanted = board.items.filter((item) => !item.isHeld && board.isWanted(item))
  let extras = 0
  for (;;) {
    const next = best(wanted, (item) => {
      const isExtra = item.shard.others >= TARGET_REPLICAS
      if (item.isHeld || board.heldBytes + item.shard.bytes > budgetBytes || (isExtra && extras >= EXTRA_SHARDS)) return 0
      return board.appeal(item)
    })
    if (next === null) break
    if (next.shard.others >= TARGET_REPLICAS) extras++
    board.hold(next)
    fetch.push(next)
  }

  for (let swaps = 0; swaps < SWAPS; swaps++) {
    const next = best(wanted, (item) => (item.isHeld ? 0 : board.worth(item)))
    if (next === null) break
    const out = board.leastWorth((item) => !fetch.includes(item) && board.mayDrop(item, next))
    if (out === null || board.heldBytes - out.shard.bytes + next.shard.bytes > budgetBytes) break
    board.release(out)
    if (board.worth(next) < HYSTERESIS * board.worth(out)) {
      board.hold(out)
      break
    }
    board.hold(next)
    fetch.push(next)
    drop.push(out)
  }
  return { fetch: fetch.map((item) => item.ref), drop: drop.map((item) => item.ref) }
}

/** The shards of all models, which of them are held as the plan goes on, and what each is worth beside them. */
class Board {
  readonly items: readonly Item[]
  heldBytes = 0
  readonly #problem: PlacementProblem
  readonly #meanHeat: number
  /** Index of each model's first item. */
  readonly #firsts: readonly number[]

  constructor(problem: PlacementProblem) {
    this.#problem = problem
    this.items = problem.models.flatMap((model, modelIndex) =>
      model.shards.map((shard, index): Item => {
        return { model: modelIndex, index, shard, ref: { model: model.id, cid: shard.cid }, isHeld: problem.held.has(shard.cid) }
      }),
    )
    for (const item of this.items) if (item.isHeld) this.heldBytes += item.shard.bytes
    const heats = this.items.map((item) => item.shard.heat)
    this.#meanHeat = heats.reduce((sum, heat) => sum + heat, 0) / Math.max(1, heats.length)
    this.#firsts = problem.models.map((_, i) => problem.models.slice(0, i).reduce((sum, model) => sum + model.shards.length, 0))
  }

  hold(item: Item): void {
    item.isHeld = true
    this.heldBytes += item.shard.bytes
  }

  release(item: Item): void {
    item.isHeld = false
    this.heldBytes -= item.shard.bytes
  }

  /** What the swarm gains by this node's holding the shard beside the others that it holds. */
  worth(item: Item): number {
    const { others, heat } = item.shard
    const need =
      others === 0 ? UNCOVERED_WORTH : others < TARGET_REPLICAS ? RARE_WORTH : (this.#meanHeat === 0 ? 1 : heat / this.#meanHeat) / others
    let together = 0
    let total = 0
    for (const [mate, rate] of this.#problem.models[item.model]!.mates[item.index]!) {
      total += rate
      if (this.items[this.#firsts[item.model]! + mate]!.isHeld) together += rate
    }
    const share = total === 0 ? 1 : together / total
    return need * (WORTH_ALONE + (1 - WORTH_ALONE) * share)
  }

  /** Worth, with a little chance: so that nodes differ in what they begin with. */
  appeal(item: Item): number {
    return this.worth(item) * (1 + NOISE * uniform(this.#problem.seed, item.shard.cid))
  }

  /** Whether this node answers the need of the shard's layer in this round. */
  isWanted(item: Item): boolean {
    const { nodes, seed, isRelayed } = this.#problem
    const { others, layer } = item.shard
    const chance = uniform(seed, `${item.ref.model}/${layer}`)
    if (others < TARGET_REPLICAS) return chance < (TAKERS * (TARGET_REPLICAS - others)) / nodes
    if (isRelayed || this.worth(item) / WORTH_ALONE < LEAST_WORTH) return false
    return chance < EXTRA_TAKERS / nodes
  }

  /**
   * Whether one shard may go for another: it must keep enough hosts, or more than the other has, and of all hosts that may think so only
   * about one does in a round.
   */
  mayDrop({ shard }: Item, next: Item): boolean {
    if (shard.others < TARGET_REPLICAS && shard.others <= next.shard.others) return false
    return uniform(this.#problem.seed, `drop ${shard.cid}`) * (shard.others + 1) < 1
  }

  /** The held shard that may go and is worth least. */
  leastWorth(may: (item: Item) => boolean): Item | null {
    let least: Item | null = null
    for (const item of this.items) {
      if (!item.isHeld || this.#problem.pinned.has(item.shard.cid) || !may(item)) continue
      if (least === null || this.worth(item) < this.worth(least)) least = item
    }
    return least
  }
}

function best(items: readonly Item[], score: (item: Item) => number): Item | null {
  let found: Item | null = null
  let highest = 0
  for (const item of items) {
    const value = score(item)
    if (value <= highest) continue
    highest = value
    found = item
  }
  return found
}

/** A number in [0, 1) from a seed and a text (FNV-1a, finished as murmur3 does). */
function uniform(seed: number, text: string): number {
  let h = (0x811c_9dc5 ^ seed) >>> 0
  for (let i = 0; i < text.length; i++) h = Math.imul(h ^ text.charCodeAt(i), 0x0100_0193)
  h = Math.imul(h ^ (h >>> 16), 0x85eb_ca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2_ae35)
  return ((h ^ (h >>> 16)) >>> 0) / 2 ** 32
}
