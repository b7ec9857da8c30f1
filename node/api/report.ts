import type { HostShare, QueryReport } from '../driver/query.ts'

/** One report for several choices: sums, the first one's seed, and exact only if all are. */
export function mergeReports(reports: readonly [QueryReport, ...QueryReport[]]): QueryReport {
  const [first, ...others] = reports
  return others.reduce((sum, report) => ({ ...sum, ...added(sum, report) }), first)
}

function added(a: QueryReport, b: QueryReport): Partial<QueryReport> {
  return {
    exact: a.exact && b.exact,
    passes: a.passes + b.passes,
    calls: {
      local: a.calls.local + b.calls.local,
      remote: a.calls.remote + b.calls.remote,
      retried: a.calls.retried + b.calls.retried,
    },
    bytes: { sent: a.bytes.sent + b.bytes.sent, received: a.bytes.received + b.bytes.received },
    timeMs: { prompt: a.timeMs.prompt + b.timeMs.prompt, decode: a.timeMs.decode + b.timeMs.decode },
    expertCache: { hits: a.expertCache.hits + b.expertCache.hits, picks: a.expertCache.picks + b.expertCache.picks },
    hosts: mergeHosts([...a.hosts, ...b.hosts]),
  }
}

function mergeHosts(shares: readonly HostShare[]): HostShare[] {
  const hosts = new Map<string, HostShare>()
  for (const share of shares) {
    const before = hosts.get(share.peer)
    if (before === undefined) {
      hosts.set(share.peer, share)
      continue
    }
    hosts.set(share.peer, {
      ...share,
      calls: before.calls + share.calls,
      rows: before.rows + share.rows,
      layers: [...new Set([...before.layers, ...share.layers])].sort((x, y) => x - y),
    })
  }
  return [...hosts.values()]
}
