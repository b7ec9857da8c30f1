import type { ExpertCall, ExpertClient } from '../../protocols/expert/index.ts'
import { EXPERT_LIMITS, Priority } from '../../protocols/expert/index.ts'
import { PeerRefusedError } from '../../protocols/wire/errors.ts'
import type { ShardEntry } from '../model/manifest.ts'
import type { ExpertLinks } from '../net/expert-links.ts'
import type { ProviderRecords } from '../net/provider-records.ts'
import { repeat } from '../repeat.ts'
import type { CostModel } from '../router/cost-model.ts'
import type { Holders } from './holders.ts'
import type { DrivenModel } from './generation.ts'

export interface LinkKeeperComponents {
  readonly links: ExpertLinks
  readonly holders: Holders
  readonly costs: CostModel
  readonly records: ProviderRecords
  /** Peers whose live ledger record announces the expert. */
  readonly announcers: (model: string, layer: number, expert: number) => readonly string[]
  /** Hears of peers that could not be linked to. */
  readonly onUnreachable: (peer: string) => void
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

/** Hosts this driver keeps a stream to. */
const MAX_LINKS = 128
const CONCURRENT_OPENS = 8
const TICK_MS = 500
/** A host not called for this long is probed, so that the plan never rests on stale numbers. */
const PROBE_AFTER_MS = 15_000
const PROBE_DEADLINE_MS = 10_000
/** Sooner if the probe found it much slower than the best: it may only have been starting. Doubled with each such probe. */
const RETRY_PROBE_AFTER_MS = 500
const SUSPECT_FACTOR = 3
/** Calls of one round of a probe: the first ones pay for cold code on both sides, so there are rounds until one is no faster than the one before. */
const PROBE_ROUND_CALLS = 10
const PROBE_ROUNDS = 8
const SETTLED_SHARE = 0.8
const PROBE_TIME_MS = 2_000
/** Providers asked for when the ledger knows nobody. */
const MAX_PROVIDERS = 8

/** Keeps a measured link to every host of the models driven here, and finds more when an expert has none. */
export class LinkKeeper {
  readonly #components: LinkKeeperComponents
  readonly #models: readonly DrivenModel[]
  readonly #probing = new Set<ExpertClient>()
  /** Of hosts that were probed: milliseconds after which they are probed again if no query calls them. */
  readonly #probeAfterMs = new Map<string, number>()
  #stopping = new AbortController()

  constructor(components: LinkKeeperComponents, models: readonly DrivenModel[]) {
    this.#components = components
    this.#models = models
  }

  start(): void {
    this.#stopping = new AbortController()
    const onError = (error: Error): void => this.#components.log('links.tick.failed', { reason: error.message })
    repeat(() => this.tick(), { intervalMs: TICK_MS, signal: this.#stopping.signal, onError })
  }

  stop(): void {
    this.#stopping.abort(new Error('the node is stopping'))
  }

  /** Opens missing links and probes hosts that were not called lately; resolves when all that was begun has ended. */
  async tick(): Promise<void> {
    const { links, costs, holders } = this.#components
    const wanted = new Map<string, DrivenModel>()
    for (const model of this.#models) for (const peer of holders.announced(model.id)) if (!wanted.has(peer)) wanted.set(peer, model)
    const missing = [...wanted.keys()].filter(
      (peer) => links.get(peer) === undefined && !links.isOpening(peer) && costs.backoffMs(peer) === 0,
    )
    const stale = [...wanted].filter(
      ([peer]) =>
        links.get(peer) !== undefined &&
        costs.ageMs(peer) > (this.#probeAfterMs.get(peer) ?? PROBE_AFTER_MS) &&
        costs.backoffMs(peer) === 0,
    )
    const outdated = [...wanted].filter(([peer]) => links.canImprove(peer))
    const room = Math.max(0, Math.min(CONCURRENT_OPENS, MAX_LINKS - links.size))
    await Promise.all([
      ...missing.slice(0, room).map((peer) => this.#open(peer, wanted.get(peer)!)),
      ...stale.map(([peer, model]) => this.#probe(peer, model)),
      ...outdated.map(([peer, model]) => this.#improve(peer, model)),
    ])
  }

  /** A connection to the peer has opened: if it carries calls better than the one in use, they move to it and are measured anew. */
  async connected(peer: string): Promise<void> {
    const { links, holders } = this.#components
    if (!links.canImprove(peer)) return
    const model = this.#models.find(({ id }) => holders.candidates(id).some((candidate) => candidate.peer === peer))
    if (model !== undefined) await this.#improve(peer, model)
  }

  /** Looks for a host of the expert beyond the open links: in the ledger, then in the DHT. True when a link to one was opened. */
  async discover(id: string, layer: number, expert: number, signal: AbortSignal): Promise<boolean> {
    const { announcers, links, records, holders, log } = this.#components
    const model = this.#models.find((entry) => entry.id === id)
    if (model === undefined) return false
    const open = async (peer: string): Promise<boolean> => {
      if (links.get(peer) !== undefined) return false
      return this.#open(peer, model)
    }
    if ((await Promise.all(announcers(id, layer, expert).map(open))).includes(true)) return true
    const shard = model.manifest.blobs.find(
      (blob): blob is ShardEntry => blob.role === 'experts' && blob.layer === layer && blob.first <= expert && expert <= blob.last,
    )
    if (shard === undefined) return false
    const providers = await records.find(shard.cid, MAX_PROVIDERS, signal)
    log('dht.found', { layer, expert, providers: providers.length })
    const experts = Array.from({ length: shard.last - shard.first + 1 }, (_, i) => shard.first + i)
    const opened = await Promise.all(
      providers.map(async (provider) => {
        const peer = provider.toString()
        const linked = links.get(peer) !== undefined || (await this.#open(peer, model))
        if (linked) holders.hint(peer, id, layer, experts)
        return linked
      }),
    )
    return opened.includes(true)
  }

  /** One that seems slow beside the others is soon given another chance: the plan would leave it alone until its measurement is stale. */
  #planNextProbe(peer: string): void {
    const { costs, holders } = this.#components
    const hosts = this.#models.flatMap((model) => [...holders.announced(model.id)])
    const overheads = hosts.map((other) => costs.counts(other).overheadUs ?? Infinity)
    const isSuspect = (costs.counts(peer).overheadUs ?? 0) > SUSPECT_FACTOR * Math.min(...overheads)
    const lastMs = this.#probeAfterMs.get(peer)
    this.#probeAfterMs.delete(peer)
    if (!isSuspect) return
    // The latest come last, so that the one forgotten for room is the one probed longest ago.
    this.#probeAfterMs.set(peer, Math.min(PROBE_AFTER_MS, lastMs === undefined ? RETRY_PROBE_AFTER_MS : 2 * lastMs))
    if (this.#probeAfterMs.size > MAX_LINKS) this.#probeAfterMs.delete(this.#probeAfterMs.keys().next().value!)
  }

  async #improve(peer: string, model: DrivenModel): Promise<void> {
    const { links, costs, log } = this.#components
    try {
      if (!(await links.improve(peer))) return
    } catch (error) {
      log('link.not.improved', { peer, reason: (error as Error).message })
      return
    }
    costs.relinked(peer)
    await this.#probe(peer, model)
  }

  async #open(peer: string, model: DrivenModel): Promise<boolean> {
    const { links, costs, onUnreachable, log } = this.#components
    try {
      await links.open(peer)
    } catch (error) {
      costs.failed(peer)
      onUnreachable(peer)
      log('link.failed', { peer, reason: (error as Error).message })
      return false
    }
    await this.#probe(peer, model)
    return true
  }

  /** One row through one expert: proves that the host serves, and measures the link before a query needs it. */
  async #probe(peer: string, model: DrivenModel): Promise<void> {
    const { links, costs, holders, log } = this.#components
    const client = links.get(peer)
    const { layers, experts, hiddenSize } = model.manifest.config
    const candidate = holders.candidates(model.id).find((entry) => entry.peer === peer)
    if (client === undefined || candidate === undefined || this.#probing.has(client)) return
    const held = Array.from({ length: layers * experts }, (_, i) => i).find((i) => candidate.holds(Math.floor(i / experts), i % experts))
    if (held === undefined) return
    this.#probing.add(client)
    const call: ExpertCall = {
      model: model.digest,
      layer: Math.floor(held / experts),
      priority: Priority.background,
      deadlineMs: Math.min(PROBE_DEADLINE_MS, EXPERT_LIMITS.maxDeadlineMs),
      combine: true,
      rowType: 'f16',
      rows: 1,
      width: hiddenSize,
      x: new Float32Array(hiddenSize).fill(1 / Math.sqrt(hiddenSize)),
      pickRow: Uint16Array.of(0),
      pickExpert: Uint16Array.of(held % experts),
      pickWeight: Float32Array.of(1),
    }
    try {
      const probedAt = performance.now()
      let before = Infinity
      for (let round = 0; round < PROBE_ROUNDS; round++) {
        const times = []
        // Over a far link one round takes longer than all shall: what there is of it counts.
        for (let i = 0; i < PROBE_ROUND_CALLS && (i === 0 || performance.now() - probedAt < PROBE_TIME_MS); i++) {
          const startedAt = performance.now()
          const { queueUs, computeUs } = await client.call(call)
          const latencyMs = performance.now() - startedAt
          // The peer is reached over a better link by now, which is measured anew.
          if (links.get(peer) !== client) return
          costs.probed(peer, { latencyUs: latencyMs * 1000, queueUs, computeUs, picks: 1 })
          times.push(latencyMs)
        }
        const median = times.sort((a, b) => a - b)[times.length >> 1]!
        if (median >= before * SETTLED_SHARE || performance.now() - probedAt > PROBE_TIME_MS) break
        before = median
      }
      this.#planNextProbe(peer)
    } catch (error) {
      if (error instanceof PeerRefusedError && error.status === 'notHeld') {
        if (holders.deny(peer, model.id, call.layer, [call.pickExpert[0]!])) costs.contradicted(peer)
      } else costs.failed(peer)
      log('probe.failed', { peer, reason: (error as Error).message })
    } finally {
      this.#probing.delete(client)
    }
  }
}
