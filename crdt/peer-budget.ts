/** Envelopes that one peer may hand over at once: a large swarm's records after a partition heals. */
const BURST = 512
/** And per second after that: far above the 2 per second that a whole swarm makes, see DEFAULTS.authorIntervalMs. */
const PER_SECOND = 64
/** Faulty envelopes that a peer may hand over before it is ignored; one costs a signature check, 0.3 ms. */
const MAX_FAULTS = 8
/** How long it is then ignored, and a fault remembered. */
const FAULT_MEMORY_MS = 600_000
/** Peers remembered; the least recently heard goes first. */
const MAX_PEERS = 1024

interface Account {
  tokens: number
  filledMs: number
  faults: number
  faultMs: number
}

/** What each forwarding peer may still cost this node. */
export class PeerBudget {
  readonly #accounts = new Map<string, Account>()
  readonly #clock: () => number

  constructor(clock: () => number = Date.now) {
    this.#clock = clock
  }

  /** Whether an envelope from the peer is to be looked at; counts it. */
  spend(peer: string): boolean {
    const account = this.#account(peer)
    if (account.faults > MAX_FAULTS || account.tokens < 1) return false
    account.tokens--
    return true
  }

  /** The peer forwarded what no honest peer forwards. */
  fault(peer: string): void {
    const account = this.#account(peer)
    account.faults++
    account.faultMs = this.#clock()
  }

  isIgnored(peer: string): boolean {
    return this.#account(peer).faults > MAX_FAULTS
  }

  #account(peer: string): Account {
    const now = this.#clock()
    const account = this.#accounts.get(peer) ?? { tokens: BURST, filledMs: now, faults: 0, faultMs: 0 }
    const elapsedMs = Math.max(0, now - account.filledMs)
    account.tokens = Math.min(BURST, account.tokens + (elapsedMs / 1000) * PER_SECOND)
    account.filledMs = now
    if (now - account.faultMs > FAULT_MEMORY_MS) account.faults = 0
    this.#accounts.delete(peer)
    this.#accounts.set(peer, account)
    if (this.#accounts.size > MAX_PEERS) this.#accounts.delete(this.#accounts.keys().next().value!)
    return account
  }
}
