import type { Ledger } from '../crdt/index.ts'
import type { Config } from './config.ts'
import type { RoutingCounts } from './driver/routing-counts.ts'
import type { ExpertHost } from './host/expert-host.ts'
import { ServiceTimes } from './host/service-times.ts'
import { repeat } from './repeat.ts'
import { holdingsOf } from './served-model.ts'
import type { ServedModel } from './served-model.ts'
import { VERSION } from './version.ts'

/** How often changed statistics are written into the node's own record. */
const PUBLISH_INTERVAL_MS = 5_000

export interface LedgerPublisherComponents {
  readonly ledger: Ledger
  readonly host: ExpertHost
  readonly counts: RoutingCounts
  readonly models: readonly ServedModel[]
  readonly config: Config
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

/** Writes what this node knows of itself into its own ledger record: profile and holdings at once, statistics as they change. */
export class LedgerPublisher {
  readonly #components: LedgerPublisherComponents
  readonly #times = new ServiceTimes()
  #stopping = new AbortController()
  #publishedCalls = 0

  constructor(components: LedgerPublisherComponents) {
    this.#components = components
  }

  start(): void {
    const { ledger, host, models, config, log } = this.#components
    this.#stopping = new AbortController()
    host.onServed = (queueUs, computeUs) => this.#times.add(queueUs + computeUs)
    ledger.set('profile', { name: config.name ?? '', version: VERSION, relayed: false })
    ledger.set('holdings', new Map(models.filter((model) => model.shards.length > 0).map((model) => [model.id, holdingsOf(model)])))
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

  /** Writes the statistics that changed since the last time. */
  publish(): void {
    const { ledger, host, counts } = this.#components
    const { served, busy, failed } = host.counts
    const quantiles = this.#times.quantiles()
    if (quantiles !== null && served + busy + failed !== this.#publishedCalls) {
      this.#publishedCalls = served + busy + failed
      ledger.set('service', { served, busy, failed, ...quantiles })
    }
    for (const [model, rows] of counts.take()) ledger.addRouted(model, rows)
  }
}
