import type { Combine, HostShare, QueryReport, WireType } from './query.ts'

/** A call that was answered. */
export interface ServedCall {
  readonly peer: string
  readonly local: boolean
  readonly layer: number
  /** Rows of the pass that it carried. */
  readonly rowOf: Uint16Array
  readonly sentBytes: number
  readonly receivedBytes: number
  /** (row, expert) pairs of it, and those of them that the expert cache served. */
  readonly picks: number
  readonly cachedPicks: number
}

/** What hears of the calls of a pass, and how they are to be made. */
export interface CallTally {
  readonly wire: WireType
  readonly combine: Combine
  served(call: ServedCall): void
  /** Rows went to another replica. */
  retry(): void
  /** A layer of a decode pass was combined: what its dispatch took beyond the compute of its slowest host, in microseconds. */
  layerDone(meshUs: number): void
}

/** Counts what one query caused; the source of its report. */
export class Tally implements CallTally {
  readonly wire: WireType
  readonly combine: Combine
  readonly seed: number
  passes = 0
  promptMs = 0
  decodeMs = 0
  /** Prompt tokens whose keys and values were there already. */
  cachedTokens = 0
  #retried = 0
  #sentBytes = 0
  #receivedBytes = 0
  #picks = 0
  #cachedPicks = 0
  readonly #meshUs: number[] = []
  readonly #hosts = new Map<string, { local: boolean; calls: number; rows: number; layers: Set<number> }>()

  constructor(init: { wire: WireType; combine: Combine; seed: number }) {
    this.wire = init.wire
    this.combine = init.combine
    this.seed = init.seed
  }

  served(call: ServedCall): void {
    this.add(call, call.rowOf.length, 1)
  }

  /** `rows` of a call's rows were this query's, and `share` of its bytes. */
  add({ peer, local, layer, sentBytes, receivedBytes, picks, cachedPicks }: ServedCall, rows: number, share: number): void {
    let host = this.#hosts.get(peer)
    if (host === undefined) this.#hosts.set(peer, (host = { local, calls: 0, rows: 0, layers: new Set() }))
    host.calls++
    host.rows += rows
    host.layers.add(layer)
    this.#sentBytes += sentBytes * share
    this.#receivedBytes += receivedBytes * share
    this.#picks += picks * share
    this.#cachedPicks += cachedPicks * share
  }

  retry(): void {
    this.#retried++
  }

  layerDone(meshUs: number): void {
    this.#meshUs.push(meshUs)
  }

  report(): QueryReport {
    const hosts: HostShare[] = [...this.#hosts]
      .map(([peer, host]) => ({
        peer,
        local: host.local,
        calls: host.calls,
        rows: host.rows,
        layers: [...host.layers].sort((a, b) => a - b),
      }))
      .sort((a, b) => (a.peer < b.peer ? -1 : 1))
    const calls = (local: boolean): number => hosts.reduce((sum, host) => sum + (host.local === local ? host.calls : 0), 0)
    return {
      // Every expert that the router chose was computed with the model's own weights, or the query failed: there is no other way through.
      exact: true,
      wire: this.wire,
      combine: this.combine,
      seed: this.seed,
      passes: this.passes,
      cachedTokens: this.cachedTokens,
      calls: { local: calls(true), remote: calls(false), retried: this.#retried },
      bytes: { sent: Math.round(this.#sentBytes), received: Math.round(this.#receivedBytes) },
      timeMs: { prompt: Math.round(this.promptMs), decode: Math.round(this.decodeMs) },
      meshUs: quantiles(this.#meshUs),
      expertCache: { hits: Math.round(this.#cachedPicks), picks: Math.round(this.#picks) },
      hosts,
    }
  }
}

function quantiles(samples: readonly number[]): { p50: number; p95: number } | null {
  if (samples.length === 0) return null
  const sorted = [...samples].sort((a, b) => a - b)
  const at = (share: number): number => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))]!)
  return { p50: at(0.5), p95: at(0.95) }
}
