import { bitmapMembers, bitmapXor } from './bitmap.ts'

const NOBODY: readonly string[] = Object.freeze([])

/** What an index needs of an author. */
interface Holding {
  readonly holdings: ReadonlyMap<string, readonly Uint8Array[]> | null
}

/** Who states to serve which expert of one model; never changes once made, but shares what a changed one has in common with it. */
export class HolderIndex {
  /** Per layer and expert: peer ids, sorted. */
  readonly #layers: readonly (readonly (readonly string[] | undefined)[])[]

  private constructor(layers: readonly (readonly (readonly string[] | undefined)[])[]) {
    this.#layers = layers
  }

  /** `authors` are sorted by peer id. */
  static of(model: string, authors: ReadonlyMap<string, Holding>): HolderIndex {
    const layers: string[][][] = []
    for (const [peer, author] of authors) {
      author.holdings?.get(model)?.forEach((bitmap, layer) => {
        const lists = (layers[layer] ??= [])
        for (const expert of bitmapMembers(bitmap)) (lists[expert] ??= []).push(peer)
      })
    }
    return new HolderIndex(layers)
  }

  at(layer: number, expert: number): readonly string[] {
    return this.#layers[layer]?.[expert] ?? NOBODY
  }

  /** The index after one peer's statement changed. */
  changed(peer: string, before: readonly Uint8Array[] = [], after: readonly Uint8Array[] = []): HolderIndex {
    if (before === after) return this
    const layers = [...this.#layers]
    for (let layer = 0; layer < Math.max(before.length, after.length); layer++) {
      const changes = bitmapMembers(bitmapXor(before[layer], after[layer]))
      if (changes.length === 0) continue
      const lists = [...(layers[layer] ?? [])]
      for (const expert of changes) {
        const list = lists[expert] ?? NOBODY
        lists[expert] = list.includes(peer) ? list.filter((other) => other !== peer) : [...list, peer].sort()
      }
      layers[layer] = lists
    }
    return new HolderIndex(layers)
  }
}
