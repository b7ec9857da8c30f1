import { setTimeout as delay } from 'node:timers/promises'
import type { LedgerView } from '../../crdt/index.ts'
import { isBlobCid } from '../model/blob-cid.ts'
import type { ShardEntry } from '../model/manifest.ts'
import { repeat } from '../repeat.ts'
import { matesOf, place, TARGET_REPLICAS } from '../router/placement.ts'
import type { PlacedModel, ShardPair, ShardRef } from '../router/placement.ts'
import { inLanes } from '../in-lanes.ts'
import type { HoldingsService } from './holdings-service.ts'
import { shardsOf } from './holdings-service.ts'
import type { Handover } from './handover.ts'
import type { OtherHosts } from './other-hosts.ts'
import { ANNOUNCED } from './hosting.ts'
import type { HeldModel, Hosting, ShardState } from './hosting.ts'

export interface PlacementKeeperComponents {
  readonly view: () => LedgerView
  readonly hosting: Hosting
  readonly others: OtherHosts
  readonly handover: Pick<Handover, 'giveUp'>
  readonly holdings: Pick<HoldingsService, 'isPinned' | 'remember' | 'adopt' | 'trim'>
  readonly isRelayed: () => boolean
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

export interface PlacementKeeperInit {
  /** For shards that are served, and for blobs that were fetched. */
  readonly ramBytes: number
  readonly diskBytes: number
  /** Decides between equal choices; differs from node to node. */
  readonly seed: number
}

/** Between two looks at the swarm: a lost host is made good within a few of them. */
const ROUND_MS = 1_000
/** A node that has just started hears of the others first. */
const FIRST_ROUND_MS = 1_500
const CONCURRENT_SHARDS = 3
/** Shards taken up before the next look, the most needed first: a node that fills up must not be blind to what others lose meanwhile. */
const SHARDS_PER_ROUND = 4
/** Where more is wanted the next look comes as soon as others have heard what this one took up. */
const MORE_MS = 300
const SHARD_TIMEOUT_MS = 10 * 60_000
/** A shard or model that could not be had is left alone for so long. */
const RETRY_MS = 15_000
const MAX_MODELS = 16
/** Neither held nor to be fetched. */
const GOING: readonly (ShardState | null)[] = Object.freeze(['leaving', 'draining'])

/** With `--host auto`: looks at the swarm every second or two and takes up or gives up shards as {@link place} says. */
export class PlacementKeeper {
  readonly #components: PlacementKeeperComponents
  readonly #init: PlacementKeeperInit
  /** Model or shard → when it may be tried again, in `performance.now()` milliseconds. */
  readonly #failed = new Map<string, number>()
  #stopping = new AbortController()
  #round = 0

  constructor(components: PlacementKeeperComponents, init: PlacementKeeperInit) {
    this.#components = components
    this.#init = init
  }

  start(): void {
    this.#stopping = new AbortController()
    const { signal } = this.#stopping
    const onError = (error: Error): void => this.#components.log('placement.failed', { reason: error.message })
    const timer = setTimeout(() => repeat(() => this.round(), { intervalMs: ROUND_MS, signal, onError }), FIRST_ROUND_MS)
    signal.addEventListener('abort', () => clearTimeout(timer), { once: true })
  }

  stop(): void {
    this.#stopping.abort(new Error('the node is stopping'))
  }

  /** One look, and more as long as there is much to take up; resolves when all that was begun has ended. */
  async round(): Promise<void> {
    const { signal } = this.#stopping
    while (await this.#look()) await delay(MORE_MS, undefined, { signal }).catch(() => {})
  }

  /** One look and what follows from it; whether more is wanted than was taken up. */
  async #look(): Promise<boolean> {
    const { hosting, holdings, others, log, isRelayed } = this.#components
    const { signal } = this.#stopping
    await this.#adoptModel(signal)
    if (signal.aborted) return false
    const shards = hosting.models.flatMap((model) => shardsOf(model).map((shard) => ({ model: model.id, shard })))
    // Not waited for: one that does not answer takes seconds, and is known by the next round.
    void others.verify(shards)
    const models = hosting.models.map((model) => this.#placed(model))
    const held = new Set(hosting.models.flatMap(({ id }) => hosting.shards(id, 'serving').map(({ cid }) => cid)))
    const { fetch: wanted, drop } = place({
      models,
      held,
      pinned: new Set([...held].filter((cid) => holdings.isPinned(cid))),
      budgetBytes: this.#budgetBytes,
      isRelayed: isRelayed(),
      nodes: others.takers().size + 1,
      seed: this.#init.seed + this.#round++,
    })
    const fetch = wanted.slice(0, SHARDS_PER_ROUND)
    if (fetch.length === 0 && drop.length === 0) return false
    log('placement.decided', { fetch: fetch.length, drop: drop.length })
    let failed = 0
    for await (const isHeld of inLanes(fetch, CONCURRENT_SHARDS, (ref) => this.#hold(ref, signal))) if (!isHeld) failed++
    holdings.remember()
    // Nothing goes before what was to come in its place serves.
    if (failed > 0 || fetch.length < wanted.length) return failed === 0
    // Not waited for: it takes seconds, in which there may be more to do.
    for (const ref of drop) void this.#drop(ref, signal).then(() => holdings.remember())
    await holdings.trim(this.#init.diskBytes)
    holdings.remember()
    return false
  }

  async #hold(ref: ShardRef, signal: AbortSignal): Promise<boolean> {
    const { hosting, log } = this.#components
    try {
      await hosting.hold(ref.model, this.#shard(ref), AbortSignal.any([signal, AbortSignal.timeout(SHARD_TIMEOUT_MS)]))
      return true
    } catch (error) {
      if (!signal.aborted) log('shard.failed', { cid: ref.cid, reason: (error as Error).message })
      this.#failed.set(ref.cid, performance.now() + RETRY_MS)
      return false
    }
  }

  /** Gives a shard up once enough others serve it; or all the same, if the budget has no room for it. */
  async #drop(ref: ShardRef, signal: AbortSignal): Promise<void> {
    const { hosting, handover, others } = this.#components
    const shard = this.#shard(ref)
    const need = Math.min(TARGET_REPLICAS, Math.max(1, others.of(ref.model, shard).length))
    const isGivenUp = await handover.giveUp(ref.model, shard, { need, signal })
    if (!isGivenUp && !signal.aborted && this.#servedBytes() > this.#budgetBytes) await hosting.release(ref.model, shard)
  }

  /** Learns of one model that the swarm hosts and this node does not know yet. */
  async #adoptModel(signal: AbortSignal): Promise<void> {
    const { view, hosting, holdings, log } = this.#components
    if (hosting.models.length >= MAX_MODELS) return
    for (const author of view().authors.values()) {
      for (const id of author.holdings?.keys() ?? []) {
        if (hosting.model(id) !== undefined || !isBlobCid(id) || this.#isResting(id)) continue
        await holdings.adopt(id, signal).catch((error: Error) => {
          this.#failed.set(id, performance.now() + RETRY_MS)
          if (!signal.aborted) log('model.failed', { id, reason: error.message })
        })
        return
      }
    }
  }

  #placed(model: HeldModel): PlacedModel {
    const { hosting, others, view } = this.#components
    const { layers, experts } = model.manifest.config
    const heat = view().heat(model.id, { layers, experts, nowMs: Date.now() })
    const isGoing = (cid: string): boolean => GOING.includes(hosting.stateOf(model.id, cid))
    const entries = shardsOf(model).filter(({ cid }) => !this.#isResting(cid) && !isGoing(cid))
    const shards = entries.map((entry) => {
      let rate = 0
      for (let expert = entry.first; expert <= entry.last; expert++) rate += heat.rates[entry.layer * experts + expert]!
      return { cid: entry.cid, layer: entry.layer, bytes: entry.bytes, others: others.of(model.id, entry).length, heat: rate }
    })
    const at = new Map<number, number>()
    entries.forEach((entry, i) => {
      for (let expert = entry.first; expert <= entry.last; expert++) at.set(entry.layer * experts + expert, i)
    })
    const pairs = heat.pairs.flatMap(({ layer, a, b, rate }): ShardPair[] => {
      const [from, to] = [at.get(layer * experts + a), at.get(layer * experts + b)]
      return from === undefined || to === undefined ? [] : [{ a: from, b: to, rate }]
    })
    return { id: model.id, shards, mates: matesOf(shards, pairs) }
  }

  get #budgetBytes(): number {
    return Math.min(this.#init.ramBytes, this.#init.diskBytes)
  }

  #servedBytes(): number {
    const { hosting } = this.#components
    return hosting.models.reduce((sum, { id }) => hosting.shards(id, ...ANNOUNCED).reduce((bytes, shard) => bytes + shard.bytes, sum), 0)
  }

  #isResting(what: string): boolean {
    const until = this.#failed.get(what)
    if (until === undefined || performance.now() < until) return until !== undefined
    this.#failed.delete(what)
    return false
  }

  #shard({ model, cid }: ShardRef): ShardEntry {
    return shardsOf(this.#components.hosting.model(model)!).find((shard) => shard.cid === cid)!
  }
}
