/** A peer that moved no byte for this long no longer takes a share. */
const ACTIVE_MS = 2_000
/** What a peer may move at once after a rest, as time at its share: a prompt's vectors come in one burst. */
const BURST_MS = 2_000

export interface RelayBudgetInit {
  /** What all relayed connections together may move, both directions counted. */
  readonly bytesPerMinute: number
  /** Milliseconds of a monotonic clock. */
  readonly now?: () => number
}

interface Share {
  /** Bytes that may be moved now; negative while it has to wait. */
  tokens: number
  filledAt: number
  movedAt: number
}

/**
 * Divides what a relay forwards: every peer that is moving bytes gets an equal share of the rate, a lone one all of it. Nothing is
 * dropped; who is over its share waits.
 */
export class RelayBudget {
  readonly #bytesPerMs: number
  readonly #now: () => number
  readonly #shares = new Map<string, Share>()
  #moved = 0

  constructor(init: RelayBudgetInit) {
    this.#bytesPerMs = init.bytesPerMinute / 60_000
    this.#now = init.now ?? (() => performance.now())
  }

  /** Bytes forwarded so far. */
  get moved(): number {
    return this.#moved
  }

  /** Takes note of bytes moved for the peer; returns the milliseconds it now has to wait before it may move more. */
  spend(peer: string, bytes: number): number {
    const now = this.#now()
    this.#moved += bytes
    const share = this.#shares.get(peer) ?? this.#open(peer, now)
    share.movedAt = now
    const rate = this.#bytesPerMs / this.#active(now)
    share.tokens = Math.min(rate * BURST_MS, share.tokens + rate * (now - share.filledAt)) - bytes
    share.filledAt = now
    return share.tokens >= 0 ? 0 : Math.ceil(-share.tokens / rate)
  }

  #open(peer: string, now: number): Share {
    const share = { tokens: (this.#bytesPerMs * BURST_MS) / (this.#active(now) + 1), filledAt: now, movedAt: now }
    this.#shares.set(peer, share)
    return share
  }

  /** Peers that moved something lately; forgets the others that owe nothing. */
  #active(now: number): number {
    let active = 0
    for (const [peer, share] of this.#shares) {
      if (now - share.movedAt < ACTIVE_MS) active++
      else if (share.tokens + (this.#bytesPerMs / this.#shares.size) * (now - share.filledAt) >= 0) this.#shares.delete(peer)
    }
    return active
  }
}
