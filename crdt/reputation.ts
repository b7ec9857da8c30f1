import type { Observation, Observed } from './schema.ts'

/** What others say of a peer. Medians, so that fewer than half of them can say what they like. */
export interface Reputation {
  /** Authors that measured it. */
  readonly observers: number
  /** Median round trip; null when nobody states one. */
  readonly rttUs: number | null
  /** Median share of calls that failed or were refused for experts that it states to hold; of audits that failed, where there were any. */
  readonly badShare: number
}

const UNKNOWN: Reputation = Object.freeze({ observers: 0, rttUs: null, badShare: 0 })

/** Merges what the authors state of one peer. Its own statement is left out. Pure. */
export function reputationOf(peer: string, authors: Iterable<readonly [string, { readonly observed: Observed | null }]>): Reputation {
  const seen: Observation[] = []
  for (const [author, { observed }] of authors) {
    const observation = author === peer ? undefined : observed?.get(peer)
    if (observation !== undefined) seen.push(observation)
  }
  if (seen.length === 0) return UNKNOWN
  return {
    observers: seen.length,
    rttUs: median(seen.map(({ rttUs }) => rttUs).filter((rttUs) => rttUs > 0)),
    badShare: median(seen.map(badShareOf)) ?? 0,
  }
}

function badShareOf({ calls, failures, notHeld, auditsPassed, auditsFailed }: Observation): number {
  const bad = failures + notHeld
  return Math.max(share(bad, calls + bad), share(auditsFailed, auditsPassed + auditsFailed))
}

function share(part: number, whole: number): number {
  return whole === 0 ? 0 : part / whole
}

/** The lower one of two in the middle. */
function median(values: readonly number[]): number | null {
  return values.toSorted((a, b) => a - b)[(values.length - 1) >> 1] ?? null
}
