import type { Combine, HostShare, QueryReport, WireType } from './query.ts'

/** Counts what one query caused; the source of its report. */
export class Tally {
  readonly wire: WireType
  readonly combine: Combine
  readonly seed: number
  passes = 0
  promptMs = 0
  decodeMs = 0
  retried = 0
  sentBytes = 0
  receivedBytes = 0
  readonly #meshUs: number[] = []
  readonly #hosts = new Map<string, { local: boolean; calls: number; rows: number; layers: Set<number> }>()

  constructor(init: { wire: WireType; combine: Combine; seed: number }) {
    this.wire = init.wire
    this.combine = init.combine
    this.seed = init.seed
  }

  /** A call that was answered. */
  served(peer: string, local: boolean, layer: number, rows: number): void {
    let host = this.#hosts.get(peer)
    if (host === undefined) this.#hosts.set(peer, (host = { local, calls: 0, rows: 0, layers: new Set() }))
    host.calls++
    host.rows += rows
    host.layers.add(layer)
  }

  /** A layer of a decode pass was combined: what its dispatch took beyond the compute of its slowest host, in microseconds. */
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
      calls: { local: calls(true), remote: calls(false), retried: this.retried },
      bytes: { sent: this.sentBytes, received: this.receivedBytes },
      timeMs: { prompt: Math.round(this.promptMs), decode: Math.round(this.decodeMs) },
      meshUs: quantiles(this.#meshUs),
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
