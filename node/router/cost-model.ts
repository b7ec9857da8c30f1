import { estimateHost, NO_PRIOR } from './host-estimate.ts'
import type { HostPrior } from './host-estimate.ts'
import { BULK_BYTES, LinkRates } from './link-rates.ts'
import { RecentMedian } from './recent-median.ts'

/** What calls to one host are expected to cost, from this node's own measurements; times in microseconds. */
export interface HostCost {
  readonly peer: string
  /** The node itself: no link, no queue of the network. */
  readonly local: boolean
  /** Round trip beyond the host's own queue and compute. */
  readonly overheadUs: number
  readonly queueUs: number
  /** Compute of one (row, expert) pair. */
  readonly perPickUs: number
}

/** Calls of which the median counts: a pause of the other side's garbage collector must not shut a good host out. */
const RECENT_CALLS = 9
/** First backoff of a host that failed, doubled with each failure in a row. */
const BACKOFF_MS = 15_000
/** Also how long after its last backoff the failures of a host are too old to count. */
const MAX_BACKOFF_MS = 15 * 60_000
/** False statements in a row that have no consequence beyond the experts they were about. */
const FORGIVEN_CONTRADICTIONS = 2
/** So much of a false statement is made good by one answered call: who serves one expert must not get away with claiming a hundred. */
const REDEMPTION = 0.05
/** Refused as busy says nothing bad of a host: it is left alone as long as it asks, within this. */
const MAX_BUSY_MS = 5_000

/** Hosts remembered; beyond it the one known longest is forgotten. */
const MAX_HOSTS = 4096

/** Measurements of one host. */
export interface CallSample {
  /** From sending to receiving. */
  readonly latencyUs: number
  readonly queueUs: number
  readonly computeUs: number
  readonly picks: number
  /** Sent and received. */
  readonly bytes?: number
}

interface HostRecord {
  readonly overheadUs: RecentMedian
  readonly queueUs: RecentMedian
  readonly perPickUs: RecentMedian
  failures: number
  contradictions: number
  backoffUntil: number
  measuredAt: number
  succeeded: number
  failed: number
}

/** Hears of every call, for what outlives the last few of them. */
export interface CallWitness {
  answered(peer: string, latencyUs: number, rttUs: number): void
  failed(peer: string): void
  notHeld(peer: string): void
}

/** Measured cost, success and backoff per host. `now` is in milliseconds of a monotonic clock. */
export class CostModel {
  readonly #hosts = new Map<string, HostRecord>()
  readonly #now: () => number
  readonly #witness: CallWitness | null
  readonly #rates: LinkRates

  constructor(now: () => number = () => performance.now(), witness: CallWitness | null = null, rates: LinkRates = new LinkRates()) {
    this.#now = now
    this.#witness = witness
    this.#rates = rates
  }

  /** The host answered a call of a query: what it failed before is forgotten. */
  succeeded(peer: string, sample: CallSample): void {
    this.probed(peer, sample)
    this.forgive(peer)
  }

  /** The host answered a call that nobody needs: measured, but who answers those alone stays backed off. */
  probed(peer: string, sample: CallSample): void {
    const host = this.#record(peer)
    const overheadUs = Math.max(0, sample.latencyUs - sample.queueUs - sample.computeUs)
    this.#witness?.answered(peer, sample.latencyUs, overheadUs)
    const rttUs = host.overheadUs.value
    // A call with many rows says how fast the link is, and of its round trip nothing that small ones do not say better.
    if (rttUs !== null && sample.bytes !== undefined && sample.bytes >= BULK_BYTES)
      this.#rates.transferred(peer, sample.bytes, Math.max(0, overheadUs - rttUs) / 1000)
    else host.overheadUs.add(overheadUs)
    host.queueUs.add(sample.queueUs)
    host.perPickUs.add(sample.computeUs / Math.max(1, sample.picks))
    host.contradictions = Math.max(0, host.contradictions - REDEMPTION)
    host.measuredAt = this.#now()
    host.succeeded++
  }

  /** The host failed or was silent: it is backed off, not forgotten. */
  failed(peer: string): void {
    const host = this.#record(peer)
    this.#witness?.failed(peer)
    host.failed++
    if (this.#now() - host.backoffUntil > MAX_BACKOFF_MS) host.failures = 0
    host.backoffUntil = this.#now() + Math.min(MAX_BACKOFF_MS, BACKOFF_MS * 2 ** host.failures)
    host.failures++
  }

  /** The host states to hold what it does not: backed off like one that fails, from the third time in a row on. */
  contradicted(peer: string): void {
    const host = this.#record(peer)
    this.#witness?.notHeld(peer)
    host.contradictions++
    const excess = host.contradictions - FORGIVEN_CONTRADICTIONS
    if (excess > 0) host.backoffUntil = this.#now() + Math.min(MAX_BACKOFF_MS, BACKOFF_MS * 2 ** (excess - 1))
  }

  busy(peer: string, retryAfterMs: number): void {
    const host = this.#record(peer)
    host.backoffUntil = Math.max(host.backoffUntil, this.#now() + Math.min(MAX_BUSY_MS, retryAfterMs))
  }

  /** A host that came back (new link, new holdings) gets its chance at once. */
  forgive(peer: string): void {
    const host = this.#hosts.get(peer)
    if (host === undefined) return
    host.failures = 0
    host.backoffUntil = 0
  }

  /** The host is reached in another way: what was measured of the way there is void. */
  relinked(peer: string): void {
    const host = this.#hosts.get(peer)
    host?.overheadUs.clear()
    this.#rates.forget(peer)
    this.forgive(peer)
  }

  /** Milliseconds until the host may be used again; 0 when it may now. */
  backoffMs(peer: string): number {
    const host = this.#hosts.get(peer)
    return host === undefined ? 0 : Math.max(0, host.backoffUntil - this.#now())
  }

  /** Milliseconds since the last measurement; Infinity when there is none. */
  ageMs(peer: string): number {
    const host = this.#hosts.get(peer)
    return host === undefined || host.overheadUs.value === null ? Infinity : this.#now() - host.measuredAt
  }

  /** How long so many bytes take to or from the host beyond the round trip, in microseconds; 0 where nothing is known of its link, or they are few. */
  transferUs(peer: string, bytes: number): number {
    const rate = bytes < BULK_BYTES ? null : this.#rates.bytesPerSecond(peer)
    return rate === null ? 0 : (bytes / rate) * 1_000_000
  }

  /** What a call to the host is expected to cost; `prior` counts where nothing was measured. */
  cost(peer: string, local: boolean, prior: HostPrior): HostCost {
    const host = this.#hosts.get(peer)
    const [overheadUs, queueUs, perPickUs] = [host?.overheadUs.value ?? null, host?.queueUs.value ?? null, host?.perPickUs.value ?? null]
    // There is no way to itself, nor hearsay of it.
    if (local) return { peer, local, ...estimateHost({ overheadUs: overheadUs ?? 0, queueUs, perPickUs, ageMs: 0 }, NO_PRIOR) }
    return { peer, local, ...estimateHost({ overheadUs, queueUs, perPickUs, ageMs: this.ageMs(peer) }, prior) }
  }

  counts(peer: string): { succeeded: number; failed: number; overheadUs: number | null } {
    const host = this.#hosts.get(peer)
    return { succeeded: host?.succeeded ?? 0, failed: host?.failed ?? 0, overheadUs: host?.overheadUs.value ?? null }
  }

  #record(peer: string): HostRecord {
    let host = this.#hosts.get(peer)
    if (host === undefined) {
      if (this.#hosts.size >= MAX_HOSTS) this.#hosts.delete(this.#hosts.keys().next().value!)
      host = {
        overheadUs: new RecentMedian(RECENT_CALLS),
        queueUs: new RecentMedian(RECENT_CALLS),
        perPickUs: new RecentMedian(RECENT_CALLS),
        failures: 0,
        contradictions: 0,
        backoffUntil: 0,
        measuredAt: 0,
        succeeded: 0,
        failed: 0,
      }
      this.#hosts.set(peer, host)
    }
    return host
  }
}
