/** Bytes of keys and values that the trunks of one engine may hold together. */
export class KvBudget {
  readonly limitBytes: number
  usedBytes = 0

  constructor(limitBytes: number) {
    this.limitBytes = limitBytes
  }
}

/** Which blocks of one trunk's key-value memory are in use, and by how many sequences. */
export class KvBlocks {
  readonly blockBytes: number
  readonly #budget: KvBudget
  /** Users of each block; those beyond its end were never used. */
  #users = new Uint16Array(64)

  constructor(blockBytes: number, budget: KvBudget) {
    this.blockBytes = blockBytes
    this.#budget = budget
  }

  /** Blocks that the whole budget would hold. */
  get most(): number {
    return Math.floor(this.#budget.limitBytes / this.blockBytes)
  }

  /** Blocks that could be taken now. */
  get free(): number {
    return Math.floor((this.#budget.limitBytes - this.#budget.usedBytes) / this.blockBytes)
  }

  /** Takes `count` blocks, right after block `after` where they are free and in one run where possible; null when the budget has no room. */
  take(count: number, after: number | null): number[] | null {
    if (count > this.free) return null
    const taken: number[] = []
    const take = (block: number): void => {
      this.#use(block)
      taken.push(block)
    }
    if (after !== null) for (let block = after + 1; taken.length < count && this.#isFree(block); block++) take(block)
    const run = this.#run(count - taken.length)
    for (let block = run; taken.length < count; block++) if (this.#isFree(block)) take(block)
    return taken
  }

  /** One more user. */
  share(block: number): void {
    this.#users[block]!++
  }

  isShared(block: number): boolean {
    return this.#users[block]! > 1
  }

  release(block: number): void {
    this.#users[block]!--
    if (this.#users[block] === 0) this.#budget.usedBytes -= this.blockBytes
  }

  #isFree(block: number): boolean {
    return block < this.most && (this.#users[block] ?? 0) === 0
  }

  /** Begin of the lowest run of `count` free blocks, or 0 when no run is that long. */
  #run(count: number): number {
    let length = 0
    for (let block = 0; length < count && block < this.most; block++) {
      length = this.#isFree(block) ? length + 1 : 0
      if (length === count) return block - count + 1
    }
    return 0
  }

  #use(block: number): void {
    if (block >= this.#users.length) {
      const users = new Uint16Array(Math.max(block + 1, 2 * this.#users.length))
      users.set(this.#users)
      this.#users = users
    }
    this.#users[block] = 1
    this.#budget.usedBytes += this.blockBytes
  }
}
