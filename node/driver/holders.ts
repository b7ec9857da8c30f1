import type { LedgerView } from '../../crdt/index.ts'

/** A host that could be called for a layer's experts. */
export interface Candidate {
  readonly peer: string
  readonly local: boolean
  holds(layer: number, expert: number): boolean
}

/** What {@link Holders} asks of its surroundings. */
export interface HoldersComponents {
  /** This node's peer id. */
  readonly self: string
  readonly view: () => LedgerView
  /** Whether this node serves the expert itself. */
  readonly holdsLocally: (model: string, layer: number, expert: number) => boolean
  /** Whether calls can be sent to the peer now. */
  readonly isLinked: (peer: string) => boolean
  /** Another number whenever `isLinked` may say something else than before. */
  readonly linkChanges: () => number
  /** Milliseconds; `Date.now` when it is missing. */
  readonly now?: () => number
}

/**
 * How long a peer that said `not-held` is believed over its own statement in the ledger. A changed statement ends the first denial at
 * once; one that is denied again was no late news, and counts for twice as long each time.
 */
const DENIAL_MS = 60_000
const MAX_DENIAL_MS = 3_600_000
/** A statement that is denied is late news for so long after its first denial; after that it is false. */
const LATE_NEWS_MS = 10_000
/** Peers whose denials are remembered, and denials of one peer; the oldest are forgotten first. */
const MAX_DENYING_PEERS = 128
const MAX_DENIALS = 512
/** Peers of which provider records are remembered. */
const MAX_HINTED_PEERS = 256

/** What a peer stated to hold of a model; the view keeps the object until the statement changes, however often it is renewed. */
type Statement = readonly Uint8Array[] | undefined

interface Denial {
  readonly times: number
  readonly untilMs: number
  /** What the peer stated when it denied it. */
  readonly statement: Statement
}

/** The denials of one peer. */
interface Denials {
  /** `model/layer/expert` → the last one. */
  readonly experts: Map<string, Denial>
  /** The statement denied last, and since when. */
  statement: Statement
  sinceMs: number
}

/** Candidates of one model, and what they were made from. */
interface Listed {
  readonly view: LedgerView
  readonly linkChanges: number
  readonly candidates: readonly Candidate[]
}

/** Who serves which experts of a model, as far as this node can call them. */
export class Holders {
  readonly #components: HoldersComponents
  readonly #now: () => number
  readonly #denials = new Map<string, Denials>()
  /** Peer → `model/layer/expert` found in the DHT before the ledger told. */
  readonly #extra = new Map<string, Set<string>>()
  /** By model. Asked for at each layer of each token, and made anew only when something has changed. */
  readonly #listed = new Map<string, Listed>()

  constructor(components: HoldersComponents) {
    this.#components = components
    this.#now = components.now ?? Date.now
  }

  /** Every host that can be called now, this node first, then by peer id. */
  candidates(model: string): readonly Candidate[] {
    const view = this.#components.view()
    const linkChanges = this.#components.linkChanges()
    const listed = this.#listed.get(model)
    if (listed !== undefined && listed.view === view && listed.linkChanges === linkChanges) return listed.candidates
    const candidates = this.#list(model, view)
    this.#listed.set(model, { view, linkChanges, candidates })
    return candidates
  }

  #list(model: string, { authors }: LedgerView): Candidate[] {
    const { self, holdsLocally, isLinked } = this.#components
    const local: Candidate = { peer: self, local: true, holds: (layer, expert) => holdsLocally(model, layer, expert) }
    const remote: Candidate[] = []
    for (const [peer, author] of authors) {
      if (peer === self || !isLinked(peer)) continue
      const bitmaps = author.holdings?.get(model)
      const extra = this.#extra.get(peer)
      if (bitmaps === undefined && extra === undefined) continue
      const denials = this.#denials.get(peer)
      remote.push({
        peer,
        local: false,
        holds: (layer, expert) => {
          if (denials !== undefined && isDenied(denials.experts.get(`${model}/${layer}/${expert}`), bitmaps, this.#now())) return false
          const bitmap = bitmaps?.[layer]
          if (bitmap !== undefined && ((bitmap[expert >> 3] ?? 0) & (1 << (expert & 7))) !== 0) return true
          return extra?.has(`${model}/${layer}/${expert}`) ?? false
        },
      })
    }
    for (const [peer, extra] of this.#extra) {
      if (peer === self || !isLinked(peer) || authors.has(peer)) continue
      remote.push({ peer, local: false, holds: (layer, expert) => extra.has(`${model}/${layer}/${expert}`) })
    }
    // The view's authors are sorted, those found otherwise are not.
    if (this.#extra.size > 0) remote.sort((a, b) => (a.peer < b.peer ? -1 : 1))
    return [local, ...remote]
  }

  /** Peers that announce any expert of the model, linked or not, without this node. */
  announced(model: string): string[] {
    const { self, view } = this.#components
    return [...view().authors].filter(([peer, author]) => peer !== self && author.holdings?.has(model) === true).map(([peer]) => peer)
  }

  /**
   * The peer said that it does not serve these experts. True when its statement is false and not merely late: it has been denied for a
   * while and was not corrected, or corrected in words only.
   */
  deny(peer: string, model: string, layer: number, experts: readonly number[]): boolean {
    const now = this.#now()
    const statement = this.#components.view().authors.get(peer)?.holdings?.get(model)
    const denials = this.#denialsOf(peer)
    this.#listed.clear()
    if (denials.statement !== statement || denials.experts.size === 0) Object.assign(denials, { statement, sinceMs: now })
    let isFalse = now - denials.sinceMs >= LATE_NEWS_MS
    for (const expert of experts) {
      const key = `${model}/${layer}/${expert}`
      const before = denials.experts.get(key)
      // Several calls may be under way when the first one is denied.
      const times = before === undefined ? 1 : now < before.untilMs && before.statement === statement ? before.times : before.times + 1
      if (times > 1) isFalse = true
      denials.experts.delete(key)
      if (denials.experts.size >= MAX_DENIALS) denials.experts.delete(denials.experts.keys().next().value!)
      denials.experts.set(key, { times, untilMs: now + Math.min(MAX_DENIAL_MS, DENIAL_MS * 2 ** (times - 1)), statement })
      this.#extra.get(peer)?.delete(key)
    }
    if (this.#extra.get(peer)?.size === 0) this.#extra.delete(peer)
    return isFalse && statement !== undefined
  }

  /** A provider record names the peer for these experts, though the ledger does not (yet). */
  hint(peer: string, model: string, layer: number, experts: readonly number[]): void {
    this.#listed.clear()
    let extra = this.#extra.get(peer)
    if (extra === undefined) {
      if (this.#extra.size >= MAX_HINTED_PEERS) this.#extra.delete(this.#extra.keys().next().value!)
      this.#extra.set(peer, (extra = new Set()))
    }
    for (const expert of experts) extra.add(`${model}/${layer}/${expert}`)
  }

  #denialsOf(peer: string): Denials {
    const denials = this.#denials.get(peer) ?? { experts: new Map<string, Denial>(), statement: undefined, sinceMs: 0 }
    this.#denials.delete(peer)
    if (this.#denials.size >= MAX_DENYING_PEERS) this.#denials.delete(this.#denials.keys().next().value!)
    this.#denials.set(peer, denials)
    return denials
  }
}

/** A denial that is over is still remembered, so that the next one counts for longer. */
function isDenied(denial: Denial | undefined, statement: Statement, nowMs: number): boolean {
  if (denial === undefined || nowMs >= denial.untilMs) return false
  return denial.times > 1 || denial.statement === statement
}
