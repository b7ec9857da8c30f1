import type { PunchSide } from '../../../protocols/punch/index.ts'
import type { LinkKind } from '../link-kind.ts'

/** How a router maps what a side sends, for each way; see `PunchSide`. */
export interface NatKinds {
  readonly udp: PunchSide['udp']['mapping']
  readonly tcp: PunchSide['tcp']['mapping']
}

/** What is known of the punches towards one peer. */
export interface PunchRecord {
  /** Since the peer was last reached directly. */
  readonly attempts: number
  /** Of the last attempt, milliseconds since 1970. */
  readonly at: number
  /** What opened; null when nothing did. */
  readonly opened: LinkKind | null
  /** Why the last attempt could not even begin; null when it ran. */
  readonly failure: string | null
  /** Null before the sides have told each other. */
  readonly mine: NatKinds | null
  readonly theirs: NatKinds | null
}

/** Peers of which it is remembered; beyond it the one known longest is forgotten. */
const MAX_PEERS = 256

/** Remembers how punches went, for people who want to know why a peer is not reached directly. */
export class PunchHistory {
  readonly #records = new Map<string, PunchRecord>()

  of(peer: string): PunchRecord | null {
    return this.#records.get(peer) ?? null
  }

  /** Both sides have described themselves and begin. */
  began(peer: string, mine: PunchSide, theirs: PunchSide): void {
    const kinds = (side: PunchSide): NatKinds => ({ udp: side.udp.mapping, tcp: side.tcp.mapping })
    this.#note(peer, { opened: null, failure: null, mine: kinds(mine), theirs: kinds(theirs) }, 1)
  }

  opened(peer: string, kind: LinkKind): void {
    this.#note(peer, { opened: kind }, 0)
  }

  /** The attempt could not begin. */
  failed(peer: string, reason: string): void {
    this.#note(peer, { opened: null, failure: reason }, 1)
  }

  #note(peer: string, change: Partial<PunchRecord>, attempts: number): void {
    const last = this.#records.get(peer)
    const before = last === undefined || last.opened !== null ? 0 : last.attempts
    const known = last ?? { opened: null, failure: null, mine: null, theirs: null }
    this.#records.delete(peer)
    this.#records.set(peer, { ...known, ...change, attempts: before + attempts, at: Date.now() })
    if (this.#records.size > MAX_PEERS) this.#records.delete(this.#records.keys().next().value!)
  }
}
