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
}

/** How long a peer that said `not-held` is believed over its own ledger record; a newer record ends it at once. */
const DENIAL_MS = 60_000
/** Denials remembered over all peers. */
const MAX_DENIALS = 4096
/** Peers of which provider records are remembered. */
const MAX_HINTED_PEERS = 256

/** Who serves which experts of a model, as far as this node can call them. */
export class Holders {
  readonly #components: HoldersComponents
  /** `peer/model/layer/expert` → when it was denied. */
  readonly #denials = new Map<string, number>()
  /** Peer → `model/layer/expert` found in the DHT before the ledger told. */
  readonly #extra = new Map<string, Set<string>>()

  constructor(components: HoldersComponents) {
    this.#components = components
  }

  /** Every host that can be called now, this node first, then by peer id. */
  candidates(model: string): Candidate[] {
    const { self, view, holdsLocally, isLinked } = this.#components
    const local: Candidate = { peer: self, local: true, holds: (layer, expert) => holdsLocally(model, layer, expert) }
    const remote: Candidate[] = []
    for (const [peer, author] of view().authors) {
      if (peer === self || !isLinked(peer)) continue
      const bitmaps = author.holdings?.get(model)
      const extra = this.#extra.get(peer)
      if (bitmaps === undefined && extra === undefined) continue
      remote.push({
        peer,
        local: false,
        holds: (layer, expert) => {
          if (this.#denials.size > 0 && this.#isDenied(peer, model, layer, expert, author.updatedAt)) return false
          const bitmap = bitmaps?.[layer]
          if (bitmap !== undefined && ((bitmap[expert >> 3] ?? 0) & (1 << (expert & 7))) !== 0) return true
          return extra?.has(`${model}/${layer}/${expert}`) ?? false
        },
      })
    }
    for (const [peer, extra] of this.#extra) {
      if (peer === self || !isLinked(peer) || view().authors.has(peer)) continue
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

  /** The peer said that it does not serve these experts. */
  deny(peer: string, model: string, layer: number, experts: readonly number[]): void {
    for (const expert of experts) {
      if (this.#denials.size >= MAX_DENIALS) this.#denials.delete(this.#denials.keys().next().value!)
      this.#denials.set(`${peer}/${model}/${layer}/${expert}`, Date.now())
      this.#extra.get(peer)?.delete(`${model}/${layer}/${expert}`)
    }
    if (this.#extra.get(peer)?.size === 0) this.#extra.delete(peer)
  }

  /** A provider record names the peer for these experts, though the ledger does not (yet). */
  hint(peer: string, model: string, layer: number, experts: readonly number[]): void {
    let extra = this.#extra.get(peer)
    if (extra === undefined) {
      if (this.#extra.size >= MAX_HINTED_PEERS) this.#extra.delete(this.#extra.keys().next().value!)
      this.#extra.set(peer, (extra = new Set()))
    }
    for (const expert of experts) extra.add(`${model}/${layer}/${expert}`)
  }

  #isDenied(peer: string, model: string, layer: number, expert: number, updatedAt: number): boolean {
    const key = `${peer}/${model}/${layer}/${expert}`
    const at = this.#denials.get(key)
    if (at === undefined) return false
    if (at >= updatedAt && Date.now() - at < DENIAL_MS) return true
    this.#denials.delete(key)
    return false
  }
}
