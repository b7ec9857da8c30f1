import { setTimeout as delay } from 'node:timers/promises'
import { NoRouteError } from '../errors.ts'
import type { ShardEntry } from '../model/manifest.ts'
import { coverageOf, describeMissing } from '../router/coverage.ts'
import type { DrivenModel } from './generation.ts'
import type { Holders } from './holders.ts'

export interface CompletenessComponents {
  readonly holders: Pick<Holders, 'candidates'>
  /** Peers that announce the expert, linked or not, but for those that are known to be gone. */
  readonly announcers: (model: string, layer: number, expert: number) => readonly string[]
  /** Looks for a host of the expert in ledger and DHT, and links to it. */
  readonly discover: (model: string, layer: number, expert: number, signal: AbortSignal) => Promise<boolean>
}

/** Missing shards that are looked for at once: one that nobody has is enough to know that a model can't answer. */
const SOUGHT_AT_ONCE = 4
const SEEK_TIMEOUT_MS = 10_000
/** A query waits so long for a first look-up; later ones know. */
const FIRST_SEEK_MS = 2_000
/** After so long it is worth looking again. */
const SOUGHT_AGAIN_MS = 15_000

/** What is known of a missing shard from looking for its hosts. */
interface Look {
  /** Whether a look has ended: what is missing then is missing. */
  hasEnded: boolean
  /** The look under way, or the last one. */
  ended: Promise<void>
  /** When the next is worth while, in `performance.now()` milliseconds; Infinity while one is under way. */
  againAt: number
}

/** Knows whether a model can answer at all, so that a query to one that can't is refused at once and not after timeouts. */
export class Completeness {
  readonly #components: CompletenessComponents
  /** By CID of the shard. */
  readonly #looks = new Map<string, Look>()

  constructor(components: CompletenessComponents) {
    this.#components = components
  }

  /** Begins to look for hosts of what is missing, so that {@link check} knows. */
  seek(model: DrivenModel): void {
    for (const { shard, expert } of this.#missing(model).slice(0, SOUGHT_AT_ONCE)) this.#look(model, shard, expert)
  }

  /** Throws `NoRouteError` when some of the model's experts have no host, and a look-up has found none. */
  async check(model: DrivenModel): Promise<void> {
    const missing = this.#missing(model).slice(0, SOUGHT_AT_ONCE)
    if (missing.length === 0) return
    const looks = missing.map(({ shard, expert }) => this.#look(model, shard, expert))
    if (looks.some((look) => !look.hasEnded)) {
      const late = new AbortController()
      await Promise.race([
        Promise.all(looks.map((look) => look.ended)),
        delay(FIRST_SEEK_MS, undefined, { signal: late.signal }).catch(() => {}),
      ])
      late.abort()
    }
    const bare = this.#missing(model).find(({ shard }) => this.#looks.get(shard.cid)?.hasEnded === true)
    if (bare === undefined) return
    const hasHost = this.#hostTest(model)
    const coverage = coverageOf(model.manifest, (layer, expert) => (hasHost(layer, expert) ? 1 : 0))
    throw new NoRouteError(bare.shard.layer, bare.expert, `nobody announces it; ${describeMissing(coverage)}`)
  }

  /** Shards with an expert that nobody serves, and the first such expert. */
  #missing(model: DrivenModel): { readonly shard: ShardEntry; readonly expert: number }[] {
    const hasHost = this.#hostTest(model)
    return model.manifest.blobs.flatMap((shard) => {
      if (shard.role !== 'experts') return []
      for (let expert = shard.first; expert <= shard.last; expert++) if (!hasHost(shard.layer, expert)) return [{ shard, expert }]
      return []
    })
  }

  #hostTest({ id }: DrivenModel): (layer: number, expert: number) => boolean {
    const { holders, announcers } = this.#components
    const candidates = holders.candidates(id)
    return (layer, expert) => candidates.some((candidate) => candidate.holds(layer, expert)) || announcers(id, layer, expert).length > 0
  }

  #look(model: DrivenModel, { cid, layer }: ShardEntry, expert: number): Look {
    let look = this.#looks.get(cid)
    if (look === undefined) this.#looks.set(cid, (look = { hasEnded: false, ended: Promise.resolve(), againAt: 0 }))
    if (performance.now() < look.againAt) return look
    const current = look
    current.againAt = Infinity
    current.ended = this.#components
      .discover(model.id, layer, expert, AbortSignal.timeout(SEEK_TIMEOUT_MS))
      .catch(() => false)
      .then(() => {
        current.hasEnded = true
        current.againAt = performance.now() + SOUGHT_AGAIN_MS
      })
    return current
  }
}
