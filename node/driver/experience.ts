import { LIMITS, LatencySketch } from '../../crdt/index.ts'
import type { Observation, Observed } from '../../crdt/index.ts'

export interface ExperienceInit {
  /** This node: what it does for itself says nothing of others. */
  readonly self: string
  /** Milliseconds of a clock that does not go back. */
  readonly now?: () => number
}

/** What this node went through with one peer; counts fade. */
export interface PeerExperience {
  readonly calls: number
  readonly failures: number
  /** Calls refused for experts that the peer states to hold. */
  readonly notHeld: number
  readonly auditsPassed: number
  readonly auditsFailed: number
}

/** After a day without news the evidence for or against a peer counts half. */
const HALF_LIFE_MS = 24 * 3_600_000
/** Counts are aged when so much time has passed, which costs more than adding to them. */
const AGE_STEP_MS = 60_000
/** Peers remembered; the one heard of longest ago is forgotten first. */
const MAX_PEERS = 1024
/** Peers stated to the swarm, about 60 bytes each: the worst ones first, up to half of them, then those called most. */
const MAX_STATED = 24
/** Latest calls that a latency sketch speaks of. */
const SKETCH_WINDOW = 1024
/** Weight of a new round trip in their moving average. */
const RTT_WEIGHT = 0.1

interface PeerRecord {
  rttUs: number
  readonly counts: { -readonly [K in keyof PeerExperience]: number }
  readonly latency: LatencySketch
}

const NOTHING: PeerExperience = Object.freeze({ calls: 0, failures: 0, notHeld: 0, auditsPassed: 0, auditsFailed: 0 })

/** What this node measured of other peers: its own judgement, and the source of its ledger topic `observed`. */
export class Experience {
  readonly #peers = new Map<string, PeerRecord>()
  readonly #self: string
  readonly #now: () => number
  #agedAt: number

  constructor(init: ExperienceInit) {
    this.#self = init.self
    this.#now = init.now ?? (() => performance.now())
    this.#agedAt = this.#now()
  }

  /** A call was answered: its whole latency, and what of it was neither queue nor compute of the peer. */
  answered(peer: string, latencyUs: number, rttUs: number): void {
    const record = this.#record(peer)
    if (record === null) return
    record.counts.calls++
    record.rttUs += (record.rttUs === 0 ? 1 : RTT_WEIGHT) * (rttUs - record.rttUs)
    record.latency.add(latencyUs)
  }

  failed(peer: string): void {
    this.#add(peer, 'failures')
  }

  notHeld(peer: string): void {
    this.#add(peer, 'notHeld')
  }

  /** An answer was repeated elsewhere and agreed, or not. */
  audited(peer: string, agreed: boolean): void {
    this.#add(peer, agreed ? 'auditsPassed' : 'auditsFailed')
  }

  of(peer: string): PeerExperience {
    return this.#peers.get(peer)?.counts ?? NOTHING
  }

  /** Takes over what this node stated in an earlier life, about peers of which it knows nothing yet. */
  restore(observed: Observed): void {
    for (const [peer, { rttUs, latency, ...counts }] of observed) {
      if (this.#peers.has(peer)) continue
      const record = this.#record(peer)
      if (record === null) continue
      record.rttUs = rttUs
      Object.assign(record.counts, counts)
      record.latency.merge(latency)
    }
  }

  /** What to state in the ledger. */
  value(): Observed {
    this.#age()
    const all = [...this.#peers].filter(([, { counts }]) => COUNTS.some((field) => Math.round(counts[field]) > 0))
    const bad = all.filter(([, { counts }]) => badness(counts) >= 0.5).sort(([, a], [, b]) => badness(b.counts) - badness(a.counts))
    const busy = all.sort(([, a], [, b]) => b.counts.calls - a.counts.calls)
    const chosen = new Map([...bad.slice(0, MAX_STATED / 2), ...busy])
    return new Map([...chosen].slice(0, MAX_STATED).map(([peer, record]) => [peer, stated(record)]))
  }

  #add(peer: string, field: keyof PeerExperience): void {
    const record = this.#record(peer)
    if (record !== null) record.counts[field]++
  }

  #record(peer: string): PeerRecord | null {
    if (peer === this.#self) return null
    this.#age()
    let record = this.#peers.get(peer)
    if (record === undefined) {
      if (this.#peers.size >= MAX_PEERS) this.#peers.delete(this.#peers.keys().next().value!)
      record = { rttUs: 0, counts: { ...NOTHING }, latency: new LatencySketch(SKETCH_WINDOW) }
    } else this.#peers.delete(peer)
    this.#peers.set(peer, record)
    return record
  }

  #age(): void {
    const now = this.#now()
    if (now - this.#agedAt < AGE_STEP_MS) return
    const left = 2 ** -((now - this.#agedAt) / HALF_LIFE_MS)
    this.#agedAt = now
    for (const { counts } of this.#peers.values()) for (const field of COUNTS) counts[field] *= left
  }
}

const COUNTS = ['calls', 'failures', 'notHeld', 'auditsPassed', 'auditsFailed'] as const

function badness({ failures, notHeld, auditsFailed }: PeerExperience): number {
  return failures + notHeld + auditsFailed
}

function stated({ rttUs, counts, latency }: PeerRecord): Observation {
  const { calls, failures, notHeld, auditsPassed, auditsFailed } = counts
  return {
    rttUs: Math.min(Math.round(rttUs), LIMITS.maxRttUs),
    calls: Math.round(calls),
    failures: Math.round(failures),
    notHeld: Math.round(notHeld),
    auditsPassed: Math.round(auditsPassed),
    auditsFailed: Math.round(auditsFailed),
    latency: latency.value(),
  }
}
