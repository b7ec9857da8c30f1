import type { LedgerView } from '../../crdt/index.ts'
import { isMeshError, PeerLostError } from '../../protocols/wire/errors.ts'
import { InvalidRequestError, ModelMissingError } from '../errors.ts'
import { inLanes } from '../in-lanes.ts'
import { isBlobCid } from '../model/blob-cid.ts'
import type { BlobStore } from '../model/blob-store.ts'
import { findModelId, openModel, registerModel } from '../model/library.ts'
import type { ShardEntry } from '../model/manifest.ts'
import { MODEL_LIMITS } from '../model/model-limits.ts'
import { chooseShards, parseHostChoice } from '../router/shard-choice.ts'
import { readHoldings, writeHoldings } from './holdings-file.ts'
import type { Handover } from './handover.ts'
import { ANNOUNCED } from './hosting.ts'
import type { HeldModel, Hosting } from './hosting.ts'
import type { OtherHosts } from './other-hosts.ts'

/** Which experts of a model: as `--host` says it, `all`, a fraction, or `<layer>:<first>-<last>,...`. */
export interface HoldingsRequest {
  /** Friendly name or CID. */
  readonly model: string
  readonly what: string
}

/** What becomes of a request, told as it happens. */
export type HoldingEvent =
  | { readonly kind: 'model'; readonly name: string; readonly id: string; readonly shards: number; readonly bytes: number }
  | {
      readonly kind: 'shard'
      readonly layer: number
      readonly first: number
      readonly last: number
      readonly state: 'serving' | 'released' | 'failed'
      /** Why it failed; empty otherwise. */
      readonly reason: string
    }
  | { readonly kind: 'end'; readonly done: number; readonly failed: number }

export interface HoldingsServiceComponents {
  /** This node's peer id. */
  readonly self: string
  readonly hosting: Hosting
  readonly store: BlobStore
  readonly view: () => LedgerView
  readonly others: OtherHosts
  readonly handover: Handover
  /** Brings a manifest into the store. */
  readonly fetchManifest: (id: string, signal: AbortSignal) => Promise<void>
  /** Where holdings are remembered over restarts. */
  readonly file: string
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

/** Shards that are taken up at once: each fetches from several peers, and one is read while another is opened. */
const CONCURRENT_SHARDS = 3
/** Manifests looked at when a model is asked for by a name that is not known here. */
const MAX_MANIFESTS = 16

/** Holds and releases shards by hand, remembers them over restarts, and knows which are pinned. */
export class HoldingsService {
  readonly #components: HoldingsServiceComponents
  readonly #pinned = new Set<string>()
  /** CIDs of shards that were fetched from peers, the oldest first. */
  readonly #fetched = new Set<string>()
  #writing: Promise<void> = Promise.resolve()

  constructor(components: HoldingsServiceComponents) {
    this.#components = components
  }

  /** Whether placement must not give the shard up. */
  isPinned(cid: string): boolean {
    return this.#pinned.has(cid)
  }

  /**
   * Takes up what was held when this node last ran, as far as its blobs are still here: pinned shards always, the others where `all` says
   * so. Resolves when all are served.
   */
  async restore(all: boolean, signal: AbortSignal): Promise<void> {
    const { hosting, store, file, log } = this.#components
    const remembered = await readHoldings(file, (error) => log('holdings.damaged', { reason: error.message }))
    for (const [id, { held, pinned, fetched }] of remembered) {
      for (const cid of fetched) this.#fetched.add(cid)
      const model = hosting.model(id) ?? (await this.#openLocal(id))
      if (model === null) continue
      const wanted = new Set(all ? [...held, ...pinned] : pinned)
      for (const cid of pinned) this.#pinned.add(cid)
      const shards = shardsOf(model).filter(({ cid }) => wanted.has(cid))
      const take = async (shard: ShardEntry): Promise<void> => {
        if (!(await store.has(shard.cid))) return
        await hosting
          .hold(id, shard, signal)
          .catch((error: Error) => log('shard.failed', { layer: shard.layer, first: shard.first, reason: error.message }))
      }
      for await (const _ of inLanes(shards, CONCURRENT_SHARDS, take)) continue
    }
  }

  /** Writes down what is held now; called after every change. */
  remember(): void {
    const { hosting, file, log } = this.#components
    const holdings = new Map(
      hosting.models.map((model) => {
        const held = hosting.shards(model.id, ...ANNOUNCED).map(({ cid }) => cid)
        const own = new Set(shardsOf(model).map(({ cid }) => cid))
        const fetched = [...this.#fetched].filter((cid) => own.has(cid))
        return [model.id, { held, pinned: held.filter((cid) => this.#pinned.has(cid)), fetched }]
      }),
    )
    this.#writing = this.#writing
      .then(() => writeHoldings(file, holdings))
      .catch((error: Error) => log('holdings.failed', { reason: error.message }))
  }

  /** Makes a model of the swarm known here by its CID. Throws what fetching throws, and `ModelError` for a manifest that is wrong. */
  async adopt(id: string, signal: AbortSignal): Promise<void> {
    const { store, fetchManifest } = this.#components
    if (!(await store.has(id))) await fetchManifest(id, signal)
    await this.#add(id)
  }

  /** The shard's blob came from peers: it may be deleted when it is not held and the disk is wanted. */
  noteFetched(cid: string): void {
    this.#fetched.add(cid)
  }

  /** Deletes fetched blobs that are not in use, the oldest first, until those that are left take no more than so many bytes. */
  async trim(diskBytes: number): Promise<void> {
    const { hosting, store } = this.#components
    const shards = new Map(hosting.models.flatMap((model) => shardsOf(model).map((shard) => [shard.cid, { id: model.id, shard }] as const)))
    let bytes = [...this.#fetched].reduce((sum, cid) => sum + (shards.get(cid)?.shard.bytes ?? 0), 0)
    for (const cid of this.#fetched) {
      const known = shards.get(cid)
      if (bytes <= diskBytes) return
      if (known === undefined || hosting.stateOf(known.id, cid) !== null) continue
      await store.delete(cid)
      this.#fetched.delete(cid)
      bytes -= known.shard.bytes
    }
  }

  /** Resolves when all is written down. */
  async settled(): Promise<void> {
    await this.#writing
  }

  /** Takes shards up, fetched from peers where they are not here. Throws `ModelMissingError`, `InvalidRequestError`, or `signal.reason`. */
  async *hold(request: HoldingsRequest & { readonly pin: boolean }, signal: AbortSignal): AsyncGenerator<HoldingEvent> {
    const { hosting, self } = this.#components
    const model = await this.#find(request.model, signal)
    const shards = chosenShards(request.what, model, self)
    yield describe(model, shards)
    yield* this.#each(shards, 'serving', async (shard) => {
      await hosting.hold(model.id, shard, signal)
      if (request.pin) this.#pinned.add(shard.cid)
      this.remember()
    })
  }

  /**
   * Gives shards up: each once another node serves it, or at once with `force`. Throws `ModelMissingError` or `InvalidRequestError`, which
   * it is when nobody serves one of them or could take it up.
   */
  async *release(request: HoldingsRequest & { readonly force: boolean }, signal: AbortSignal): AsyncGenerator<HoldingEvent> {
    const { hosting, self, others, handover } = this.#components
    const model = await this.#find(request.model, signal)
    const asked = new Set(chosenShards(request.what, model, self).map(({ cid }) => cid))
    const shards = hosting.shards(model.id, ...ANNOUNCED).filter(({ cid }) => asked.has(cid))
    const room = handover.room()
    const isStuck = (shard: ShardEntry): boolean => others.of(model.id, shard).length === 0 && shard.bytes > room
    const last = request.force ? undefined : shards.find(isStuck)
    if (last !== undefined) {
      throw new InvalidRequestError(
        `nobody else serves experts ${last.first}-${last.last} of layer ${last.layer} of ${model.manifest.name}, nor has room for them: wait ` +
          'until another node holds them, or release them all the same with --force',
        'what',
        'last_holder',
      )
    }
    yield describe(model, shards)
    yield* this.#each(shards, 'released', async (shard) => {
      if (request.force) await hosting.release(model.id, shard)
      else if (!(await handover.giveUp(model.id, shard, { need: 1, signal }))) {
        throw new PeerLostError('no other node took it up in time: it is still served here; try again, or release it with --force')
      }
      this.#pinned.delete(shard.cid)
      this.remember()
    })
  }

  async *#each(
    shards: readonly ShardEntry[],
    state: 'serving' | 'released',
    task: (shard: ShardEntry) => Promise<void>,
  ): AsyncGenerator<HoldingEvent> {
    let failed = 0
    // What is released drains at once: one wait for all.
    const lanes = state === 'released' ? Math.max(1, shards.length) : CONCURRENT_SHARDS
    const events = inLanes(shards, lanes, async (shard): Promise<HoldingEvent> => {
      const { layer, first, last } = shard
      try {
        await task(shard)
        return { kind: 'shard', layer, first, last, state, reason: '' }
      } catch (error) {
        failed++
        return { kind: 'shard', layer, first, last, state: 'failed', reason: (error as Error).message }
      }
    })
    yield* events
    yield { kind: 'end', done: shards.length - failed, failed }
  }

  /** The model by name or CID: held here, in the store, or announced in the swarm. */
  async #find(nameOrId: string, signal: AbortSignal): Promise<HeldModel> {
    const { hosting, store, fetchManifest, view } = this.#components
    const known = hosting.models.find(({ id, manifest }) => id === nameOrId || manifest.name === nameOrId)
    if (known !== undefined) return known
    const id = isBlobCid(nameOrId) ? nameOrId : await findModelId(store, nameOrId)
    if (id !== undefined) {
      if (!(await store.has(id))) await fetchManifest(id, signal)
      return await this.#add(id)
    }
    const announced = new Set([...view().authors.values()].flatMap((author) => [...(author.holdings?.keys() ?? [])]))
    const named: HeldModel[] = []
    for (const other of [...announced].filter((model) => isBlobCid(model) && hosting.model(model) === undefined).slice(0, MAX_MANIFESTS)) {
      const isThere =
        (await store.has(other)) ||
        (await fetchManifest(other, signal).then(
          () => true,
          () => false,
        ))
      if (isThere && (await openModel(store, other)).manifest.name === nameOrId) named.push(await this.#add(other))
    }
    if (named.length > 1) {
      const ids = named.map((model) => model.id).join(', ')
      throw new InvalidRequestError(`several models of the swarm are called ${nameOrId}: choose one by its CID: ${ids}`, 'model')
    }
    if (named[0] !== undefined) return named[0]
    throw new ModelMissingError(
      `nobody in the swarm announces a model ${JSON.stringify(nameOrId.slice(0, 80))}; give its CID if you know it`,
    )
  }

  async #add(id: string): Promise<HeldModel> {
    const { hosting, store } = this.#components
    const model = await openModel(store, id)
    if ((await findModelId(store, model.manifest.name)) === undefined) await registerModel(store, model.manifest.name, id)
    return await hosting.add(model)
  }

  async #openLocal(id: string): Promise<HeldModel | null> {
    const { hosting, store } = this.#components
    try {
      return await hosting.add(await openModel(store, id))
    } catch (error) {
      if (isMeshError(error, 'ModelMissingError') || isMeshError(error, 'ModelError')) return null
      throw error
    }
  }
}

/** Largest manifest fetched. */
export const MAX_MANIFEST_BYTES = MODEL_LIMITS.manifestBytes

/** The model's shards, in its manifest's order. */
export function shardsOf({ manifest }: Pick<HeldModel, 'manifest'>): ShardEntry[] {
  return manifest.blobs.filter((blob) => blob.role === 'experts')
}

function chosenShards(what: string, model: HeldModel, self: string): ShardEntry[] {
  try {
    const choice = parseHostChoice(what, 'experts')
    if (choice.kind === 'none' || choice.kind === 'auto') {
      throw new InvalidRequestError(`experts ${what}: expected all, a fraction such as 0.5, or <layer>:<first>-<last>,...`, 'what')
    }
    return chooseShards(choice, shardsOf(model), self)
  } catch (error) {
    if (isMeshError(error, 'ConfigError')) throw new InvalidRequestError((error as Error).message, 'what')
    throw error
  }
}

function describe({ id, manifest }: HeldModel, shards: readonly ShardEntry[]): HoldingEvent {
  return { kind: 'model', name: manifest.name, id, shards: shards.length, bytes: shards.reduce((sum, shard) => sum + shard.bytes, 0) }
}
