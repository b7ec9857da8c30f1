import { LatencySketch } from '../crdt/index.ts'
import type { Holdings, Ledger } from '../crdt/index.ts'
import type { Config } from './config.ts'
import type { Experience } from './driver/experience.ts'
import type { RoutingCounts } from './driver/routing-counts.ts'
import type { ExpertHost } from './host/expert-host.ts'
import { ANNOUNCED, bitmapsOf } from './host/hosting.ts'
import type { Hosting, ShardState } from './host/hosting.ts'
import { repeat } from './repeat.ts'
import { VERSION } from './version.ts'

/** How often changed statistics are written into the node's own record. */
const PUBLISH_INTERVAL_MS = 5_000
/** Latest calls that the stated service times speak of. */
const SERVICE_WINDOW = 4096

export interface LedgerPublisherComponents {
  readonly ledger: Ledger
  readonly host: ExpertHost
  readonly counts: RoutingCounts
  readonly experience: Experience
  readonly hosting: Hosting
  /** Whether peers reach this node through relays only. */
  readonly isRelayed: () => boolean
  readonly config: Config
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

/** Writes what this node knows of itself into its own ledger record: profile and holdings at once, statistics as they change. */
export class LedgerPublisher {
  readonly #components: LedgerPublisherComponents
  readonly #times = new LatencySketch(SERVICE_WINDOW)
  #stopping = new AbortController()
  #publishedCalls = 0

  constructor(components: LedgerPublisherComponents) {
    this.#components = components
  }

  start(): void {
    const { ledger, host, experience, log } = this.#components
    this.#stopping = new AbortController()
    experience.restore(ledger.own('observed') ?? new Map())
    host.onServed = (queueUs, computeUs) => this.#times.add(queueUs + computeUs)
    this.#publishProfile()
    this.publishHoldings()
    repeat(() => this.publish(), {
      intervalMs: PUBLISH_INTERVAL_MS,
      signal: this.#stopping.signal,
      onError: (error) => log('ledger.publish.failed', { reason: error.message }),
    })
  }

  /** Writes the last statistics and stops. */
  stop(): void {
    this.publish()
    this.#stopping.abort(new Error('the node is stopping'))
    this.#components.host.onServed = null
  }

  /** States which experts are served here, and which of them only until others do. */
  publishHoldings(): void {
    const { ledger } = this.#components
    ledger.set('holdings', this.#holdings(ANNOUNCED))
    const leaving = this.#holdings(['leaving'])
    if (leaving.size > 0 || ledger.own('leaving') !== null) ledger.set('leaving', leaving)
  }

  #publishProfile(): void {
    const { ledger, isRelayed, config } = this.#components
    const { ramBytes, diskBytes } = config.budget
    const budget = config.host.kind === 'auto' ? { budgetBytes: Math.min(ramBytes, diskBytes) } : {}
    ledger.set('profile', { name: config.name ?? '', version: VERSION, relayed: isRelayed(), ...budget })
  }

  #holdings(states: readonly ShardState[]): Holdings {
    const { hosting } = this.#components
    const held = hosting.models
      .map((model) => ({ model, shards: hosting.shards(model.id, ...states) }))
      .filter(({ shards }) => shards.length > 0)
    return new Map(held.map(({ model, shards }) => [model.id, bitmapsOf(model.manifest, shards)]))
  }

  /** Writes the statistics, and what of the profile, that changed since the last time. */
  publish(): void {
    const { ledger, host, counts, experience } = this.#components
    this.#publishProfile()
    const { served, busy, failed } = host.counts
    const [p50Us, p95Us] = [this.#times.quantile(0.5), this.#times.quantile(0.95)]
    if (p50Us !== null && p95Us !== null && served + busy + failed !== this.#publishedCalls) {
      this.#publishedCalls = served + busy + failed
      ledger.set('service', { served, busy, failed, p50Us, p95Us, latency: this.#times.value() })
    }
    const observed = experience.value()
    if (observed.size > 0) ledger.set('observed', observed)
    for (const [model, rows] of counts.take()) ledger.addRouted(model, rows)
  }
}
