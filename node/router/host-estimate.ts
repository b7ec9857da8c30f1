/** What this node measured of a host: medians of the latest calls, in microseconds; null where there is nothing (any more). */
export interface HostMeasurement {
  /** Round trip beyond the host's own queue and compute. */
  readonly overheadUs: number | null
  readonly queueUs: number | null
  /** Compute of one (row, expert) pair. */
  readonly perPickUs: number | null
  /** Since the last of these calls; Infinity when there was none. */
  readonly ageMs: number
}

/** What is known of a host besides: from this node's long memory, and from the ledger, which is hearsay. */
export interface HostPrior {
  /** Queue and compute of a call as the host itself states; null when it does not. */
  readonly serviceUs: number | null
  /** Round trip as others measured it, the median of them; null when nobody states one. */
  readonly rttUs: number | null
  /** Share of calls that others saw fail, the median of them. */
  readonly reportedBadShare: number
  /** This node's own calls: answered, and failed or refused against the host's statement. */
  readonly calls: number
  readonly badCalls: number
}

/** Times in microseconds. */
export interface HostEstimate {
  readonly overheadUs: number
  readonly queueUs: number
  readonly perPickUs: number
}

/** Nothing is known. */
export const NO_PRIOR: HostPrior = Object.freeze({ serviceUs: null, rttUs: null, reportedBadShare: 0, calls: 0, badCalls: 0 })

/** Of a host of which nothing is known. */
const UNKNOWN_OVERHEAD_US = 50_000
const UNKNOWN_PER_PICK_US = 500
/** What others report of a host's failures counts like so many own calls: forgotten after a few dozen. */
const REPORT_WEIGHT = 4
/** Time lost by a call that fails, on top of the next one: finding out, asking another. */
const FAILURE_US = 20_000
/** A host that nearly always fails is as good as one that is half a second away. */
const MAX_RISK_US = 500_000
/**
 * Half-life of a measurement's worth: what is not measured any more may have become better, so the estimate falls until the host is tried
 * again. A host that costs ten times the best is tried after some three half-lives, at the price of one slow call (scripts/bench/ranking.ts weighs it).
 */
export const TRUST_HALF_LIFE_MS = 20_000

/**
 * What a call to a host is expected to cost: own measurements where there are any, else what the ledger says, else a guess. Statements
 * never count against or beside a measurement of the same thing, so whoever lies gains or harms one call. Pure.
 */
export function estimateHost(own: HostMeasurement, prior: HostPrior): HostEstimate {
  const trust = own.overheadUs === null ? 1 : 2 ** -(own.ageMs / TRUST_HALF_LIFE_MS)
  return {
    overheadUs: (own.overheadUs ?? prior.rttUs ?? UNKNOWN_OVERHEAD_US) * trust + riskUs(prior),
    queueUs: (own.queueUs ?? 0) * trust,
    perPickUs: own.perPickUs ?? prior.serviceUs ?? UNKNOWN_PER_PICK_US,
  }
}

/** Expected loss by failures: own calls count fully, reports like a few calls more. */
function riskUs({ reportedBadShare, calls, badCalls }: HostPrior): number {
  const bad = badCalls + REPORT_WEIGHT * reportedBadShare
  const good = calls + REPORT_WEIGHT * (1 - reportedBadShare)
  return bad === 0 ? 0 : Math.min(MAX_RISK_US, (bad / good) * FAILURE_US)
}
