import { Counter, Histogram, type Registry } from 'prom-client'

/** How a query ended. */
export type Outcome = 'ok' | 'failed' | 'cancelled'

/** What the HTTP face counts. */
export interface ApiMetrics {
  readonly requests: Counter<'route' | 'status'>
  readonly tokens: Counter<'kind'>
  readonly querySeconds: Histogram<'outcome'>
  readonly firstTokenSeconds: Histogram
}

/** From one token of a small local model to minutes over slow links. */
const SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800]

/** Registers the API's metrics; one API per registry. */
export function createMetrics(registry: Registry): ApiMetrics {
  const registers = [registry]
  return {
    requests: new Counter({
      name: 'skein_http_requests_total',
      help: 'HTTP requests answered, by route and status',
      labelNames: ['route', 'status'],
      registers,
    }),
    tokens: new Counter({
      name: 'skein_query_tokens_total',
      help: 'Tokens of queries over HTTP, by kind (prompt, completion)',
      labelNames: ['kind'],
      registers,
    }),
    querySeconds: new Histogram({
      name: 'skein_query_seconds',
      help: 'Time of a query over HTTP from start to end, by outcome',
      labelNames: ['outcome'],
      buckets: SECONDS,
      registers,
    }),
    firstTokenSeconds: new Histogram({
      name: 'skein_query_first_token_seconds',
      help: 'Time of a query over HTTP from start to its first token',
      buckets: SECONDS,
      registers,
    }),
  }
}
