import { performance } from 'node:perf_hooks'
import { collectDefaultMetrics, Counter, Gauge } from 'prom-client'
import type { Registry } from 'prom-client'
import type { Ledger } from '../crdt/index.ts'
import type { SwarmStatus } from './api/services.ts'
import type { Dispatcher } from './driver/dispatcher.ts'
import type { Driver } from './driver/driver.ts'
import type { ExpertCache } from './host/expert-cache.ts'
import type { ExpertHost } from './host/expert-host.ts'
import type { ExpertLinks } from './net/expert-links.ts'

export interface NodeMetricsComponents {
  readonly host: ExpertHost
  readonly links: ExpertLinks
  readonly driver: Driver
  readonly dispatcher: Pick<Dispatcher, 'picks' | 'cacheHits'>
  readonly cache: Pick<ExpertCache, 'bytes'>
  readonly ledger: Ledger
  readonly status: () => SwarmStatus
}

/** For prom-client's sampling of the event loop's delay: the longest that Node takes. At its 10 ms an idle node woke up 95 times a second more. */
const NO_SAMPLING_MS = 2 ** 31 - 1
/** What prom-client tells of those samples. */
const SAMPLED = ['min', 'max', 'mean', 'stddev', 'p50', 'p90', 'p99'].map((value) => `skein_nodejs_eventloop_lag_${value}_seconds`)

/** Registers what the node itself counts; values are read when Prometheus scrapes. */
export function registerNodeMetrics(registry: Registry, components: NodeMetricsComponents): void {
  const { host, links, driver, dispatcher, cache, status, ledger } = components
  collectDefaultMetrics({ register: registry, prefix: 'skein_', eventLoopMonitoringPrecision: NO_SAMPLING_MS })
  for (const name of SAMPLED) registry.removeSingleMetric(name)
  const counter = (name: string, help: string, read: () => number): void => {
    const metric: Counter = new Counter({
      name,
      help,
      registers: [registry],
      collect: () => {
        metric.reset()
        metric.inc(read())
      },
    })
  }
  const gauge = (name: string, help: string, read: () => number): void => {
    const metric: Gauge = new Gauge({ name, help, registers: [registry], collect: () => metric.set(read()) })
  }
  counter(
    'skein_event_loop_active_seconds_total',
    'Time that the event loop was busy',
    () => performance.eventLoopUtilization().active / 1000,
  )
  counter('skein_host_calls_served_total', 'Expert calls answered for peers', () => host.counts.served)
  counter('skein_host_calls_busy_total', 'Expert calls refused as busy', () => host.counts.busy)
  counter('skein_host_calls_failed_total', 'Expert calls that failed here', () => host.counts.failed)
  counter('skein_host_rows_total', 'Rows computed for peers', () => host.counts.rows)
  counter('skein_link_sent_bytes_total', 'Bytes sent to hosts over expert links', () => links.bytes.sent)
  counter('skein_link_received_bytes_total', 'Bytes received from hosts over expert links', () => links.bytes.received)
  counter('skein_ledger_applied_total', 'Ledger envelopes applied', () => ledger.stats().applied)
  const rejected: Counter<'reason'> = new Counter({
    name: 'skein_ledger_rejected_total',
    help: 'Ledger envelopes refused, by reason',
    labelNames: ['reason'],
    registers: [registry],
    collect: () => {
      rejected.reset()
      for (const [reason, count] of Object.entries(ledger.stats().rejected)) rejected.inc({ reason }, count)
    },
  })
  counter('skein_expert_picks_total', 'Rows that own queries sent through experts', () => dispatcher.picks)
  counter('skein_expert_cache_hits_total', 'Rows of own queries that cached experts served', () => dispatcher.cacheHits)
  gauge('skein_expert_cache_bytes', 'Shards kept for own queries', () => cache.bytes)
  gauge('skein_links', 'Open expert links', () => links.size)
  gauge('skein_queries_active', 'Queries being answered', () => driver.active)
  gauge('skein_peers', 'Peers known', () => status().peers.length)
  const coverage: Gauge<'model'> = new Gauge({
    name: 'skein_model_covered_experts',
    help: 'Experts of a model with a host that can be called',
    labelNames: ['model'],
    registers: [registry],
    collect: () => {
      for (const model of status().models) coverage.set({ model: model.name }, model.coverage.covered)
    },
  })
}
