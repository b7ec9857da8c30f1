import { setTimeout as delay } from 'node:timers/promises'
import type { Engine, Experts } from '../engine/engine.ts'
import { ModelError } from '../errors.ts'
import type { BlobStore } from '../model/blob-store.ts'
import { digestHex } from '../model/digest.ts'
import { expertLayers } from '../model/model-config.ts'
import type { Manifest, ShardEntry } from '../model/manifest.ts'
import type { ModelPackage } from '../model/package.ts'
import type { ExpertHost } from './expert-host.ts'
import { selfTest } from './self-test.ts'

/** A model of which this node hosts, or may host, shards; its trunk need not be here. */
export interface HeldModel {
  /** CID of the manifest. */
  readonly id: string
  readonly manifest: Manifest
  readonly experts: Experts
}

/**
 * Where a shard is on its way: `opening` (fetched, opened, tested), `cached` (for this node's own queries), `serving` (announced),
 * `leaving` (still announced, as something that others should take up), `draining` (announced no more, and answered until drivers know).
 */
export type ShardState = 'opening' | 'cached' | 'serving' | 'leaving' | 'draining'

/** States in which a shard is announced. */
export const ANNOUNCED: readonly ShardState[] = Object.freeze(['serving', 'leaving'])

export interface HostingComponents {
  readonly engine: Pick<Engine, 'openExperts'>
  readonly host: Pick<ExpertHost, 'add'>
  readonly store: BlobStore
  /** Brings a shard's blob into the store. */
  readonly fetch: (model: HeldModel, shard: ShardEntry, signal: AbortSignal) => Promise<void>
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

/** How long a shard that was given up is still answered: a ledger record and its gossip take well under a second. */
export const DRAIN_MS = 3_000

const SERVED = 1
const CACHED = 2

interface Slot {
  readonly model: HeldModel
  readonly shard: ShardEntry
  state: ShardState
  /** What is done with the shard now; the next waits for it. */
  work: Promise<void>
}

/** The shards that this node serves: takes them up (fetch, open, test, announce) and gives them up (withdraw, drain, close) while it runs. */
export class Hosting {
  readonly #components: HostingComponents
  readonly #models = new Map<string, HeldModel>()
  readonly #opening = new Map<string, Promise<HeldModel>>()
  /** By model, then shard CID. */
  readonly #slots = new Map<string, Map<string, Slot>>()
  /** By model, then layer: {@link SERVED} or {@link CACHED} for each expert that this node's own driver may use. Read for every call, so kept beside the slots. */
  readonly #usable = new Map<string, Uint8Array[]>()
  readonly #stopping = new AbortController()
  /** Hears when the served shards of a model have changed. */
  onChange: ((model: HeldModel) => void) | null = null

  constructor(components: HostingComponents) {
    this.#components = components
  }

  /** Makes a model known, so that its shards can be held; idempotent. */
  add(model: ModelPackage): Promise<HeldModel> {
    let opening = this.#opening.get(model.id)
    if (opening === undefined) {
      opening = this.#open(model)
      this.#opening.set(model.id, opening)
    }
    return opening
  }

  get models(): readonly HeldModel[] {
    return [...this.#models.values()]
  }

  model(id: string): HeldModel | undefined {
    return this.#models.get(id)
  }

  /** Shards of the model in any of the given states, in the manifest's order. */
  shards(id: string, ...states: readonly ShardState[]): ShardEntry[] {
    const slots = this.#slots.get(id)
    if (slots === undefined) return []
    return [...slots.values()]
      .filter(({ state }) => states.includes(state))
      .map(({ shard }) => shard)
      .sort((a, b) => a.layer - b.layer || a.first - b.first)
  }

  stateOf(id: string, cid: string): ShardState | null {
    return this.#slots.get(id)?.get(cid)?.state ?? null
  }

  /** Whether this node's own driver may use the expert: not one that is about to be closed. */
  isUsable(id: string, layer: number, expert: number): boolean {
    return (this.#usable.get(id)?.[layer]?.[expert] ?? 0) !== 0
  }

  /** The model's experts when this node's own driver may use all of them, else null. */
  ownExperts(id: string): Experts | null {
    const usable = this.#usable.get(id)
    const model = this.#models.get(id)
    if (usable === undefined || model === undefined) return null
    return expertLayers(model.manifest.config).every((layer) => !usable[layer]!.includes(0)) ? model.experts : null
  }

  /** Whether the expert is here for this node's own queries alone. */
  isCached(id: string, layer: number, expert: number): boolean {
    return this.#usable.get(id)?.[layer]?.[expert] === CACHED
  }

  /** Serves the shard, fetched if need be; resolves once it has passed its self-test and is announced. Throws what fetching or testing throws. */
  hold(id: string, shard: ShardEntry, signal: AbortSignal = this.#stopping.signal): Promise<void> {
    return this.#take(id, shard, 'serving', signal)
  }

  /** Keeps the shard for this node's own queries, without announcing it; one that is served stays so. */
  cache(id: string, shard: ShardEntry, signal: AbortSignal = this.#stopping.signal): Promise<void> {
    return this.#take(id, shard, 'cached', signal)
  }

  /** Announces that these shards are served only until others do; what is not served stays as it is. */
  leave(id: string, cids: ReadonlySet<string>): void {
    this.#turn(id, cids, 'serving', 'leaving')
  }

  /** Takes {@link leave} back, for those that are not given up yet. */
  stay(id: string, cids: ReadonlySet<string>): void {
    this.#turn(id, cids, 'leaving', 'serving')
  }

  /** Gives the shard up: withdraws it, answers until drivers know, closes it. Resolves when it is closed. Its blob stays in the store. */
  release(id: string, shard: ShardEntry): Promise<void> {
    const slot = this.#slots.get(id)?.get(shard.cid)
    if (slot === undefined) return Promise.resolve()
    return this.#after(slot, async () => {
      if (ANNOUNCED.includes(slot.state)) {
        this.#move(slot, 'draining')
        this.onChange?.(slot.model)
        await delay(DRAIN_MS, undefined, { signal: this.#stopping.signal }).catch(() => {})
      }
      this.#move(slot, 'draining')
      this.#slots.get(id)?.delete(shard.cid)
      await slot.model.experts.closeShard(shard.layer, shard.first)
      this.#components.log('shard.released', { layer: shard.layer, first: shard.first, last: shard.last })
    })
  }

  /** Ends what waits; shards stay open, the engine closes them. */
  stop(): void {
    this.#stopping.abort(new Error('the node is stopping'))
    this.onChange = null
  }

  async #open(model: ModelPackage): Promise<HeldModel> {
    const { engine, host } = this.#components
    const held: HeldModel = { id: model.id, manifest: model.manifest, experts: await engine.openExperts(model) }
    host.add({ digest: digestHex(model.id), hiddenSize: model.manifest.config.hiddenSize, experts: held.experts })
    this.#models.set(model.id, held)
    this.#slots.set(model.id, new Map())
    const { layers, experts } = model.manifest.config
    this.#usable.set(
      model.id,
      Array.from({ length: layers }, () => new Uint8Array(experts)),
    )
    return held
  }

  #take(id: string, shard: ShardEntry, state: 'serving' | 'cached', signal: AbortSignal): Promise<void> {
    const model = this.#models.get(id)
    const slots = this.#slots.get(id)
    if (model === undefined || slots === undefined) return Promise.reject(new ModelError(`model ${id} is not known here: add it first`))
    let slot = slots.get(shard.cid)
    if (slot === undefined) {
      slot = { model, shard, state: 'opening', work: Promise.resolve() }
      slots.set(shard.cid, slot)
    }
    const taken = slot
    return this.#after(taken, async () => {
      // A release that was asked for before has taken the slot away.
      if (slots.get(shard.cid) !== taken) return await this.#take(id, shard, state, signal)
      if (taken.state === 'opening') await this.#prepare(taken, AbortSignal.any([signal, this.#stopping.signal]))
      if (taken.state === 'serving' || taken.state === state || (taken.state === 'leaving' && state === 'cached')) return
      this.#move(taken, state)
      this.#components.log(state === 'serving' ? 'shard.served' : 'shard.cached', {
        layer: shard.layer,
        first: shard.first,
        last: shard.last,
      })
      if (state === 'serving') this.onChange?.(model)
    })
  }

  /** Fetches, opens and tests; on failure nothing of it is left but the blob. */
  async #prepare(slot: Slot, signal: AbortSignal): Promise<void> {
    const { store, fetch } = this.#components
    const { model, shard } = slot
    try {
      await fetch(model, shard, signal)
      signal.throwIfAborted()
      await model.experts.openShard(shard.layer, shard.first)
      await selfTest(model.manifest, model.experts, shard, await store.path(shard.cid))
    } catch (error) {
      await model.experts.closeShard(shard.layer, shard.first)
      this.#slots.get(model.id)?.delete(shard.cid)
      throw error
    }
  }

  #turn(id: string, cids: ReadonlySet<string>, from: ShardState, to: ShardState): void {
    const slots = [...(this.#slots.get(id)?.values() ?? [])].filter(({ shard, state }) => state === from && cids.has(shard.cid))
    for (const slot of slots) this.#move(slot, to)
    if (slots.length > 0) this.onChange?.(slots[0]!.model)
  }

  #move(slot: Slot, state: ShardState): void {
    slot.state = state
    const { layer, first, last } = slot.shard
    const use = ANNOUNCED.includes(state) ? SERVED : state === 'cached' ? CACHED : 0
    this.#usable.get(slot.model.id)![layer]!.fill(use, first, last + 1)
  }

  #after(slot: Slot, task: () => Promise<void>): Promise<void> {
    const work = slot.work.catch(() => {}).then(task)
    slot.work = work
    work.catch(() => {})
    return work
  }
}

/** One bitmap per layer: bit `e & 7` of byte `e >> 3` is set for an expert e of the shards. */
export function bitmapsOf(manifest: Manifest, shards: readonly ShardEntry[]): Uint8Array[] {
  const { layers, experts } = manifest.config
  const bitmaps = Array.from({ length: layers }, () => new Uint8Array(Math.ceil(experts / 8)))
  for (const shard of shards) {
    for (let expert = shard.first; expert <= shard.last; expert++) bitmaps[shard.layer]![expert >> 3]! |= 1 << (expert & 7)
  }
  return bitmaps
}
