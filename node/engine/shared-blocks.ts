/** A piece of memory shared with the workers. */
export interface SharedBlock {
  readonly id: number
  readonly memory: SharedArrayBuffer
}

const SMALLEST_BYTES = 16 * 1024
/** Memory kept for reuse; what is given back beyond it is let go. */
const MAX_IDLE_BYTES = 64 * 1024 * 1024

/** Reuses shared buffers, since making one costs more than a small job. Contents are not cleared. */
export class SharedBlocks {
  readonly #idle = new Map<number, SharedBlock[]>()
  readonly #onDrop: (block: SharedBlock) => void
  #idleBytes = 0
  #nextId = 1

  /** `onDrop` is told of each block that is let go, so that workers can forget it too. */
  constructor(onDrop: (block: SharedBlock) => void) {
    this.#onDrop = onDrop
  }

  /** A block of at least `bytes`; sizes are powers of two. */
  take(bytes: number): SharedBlock {
    const size = Math.max(SMALLEST_BYTES, 2 ** Math.ceil(Math.log2(bytes)))
    const block = this.#idle.get(size)?.pop()
    if (block !== undefined) {
      this.#idleBytes -= size
      return block
    }
    return { id: this.#nextId++, memory: new SharedArrayBuffer(size) }
  }

  give(block: SharedBlock): void {
    const size = block.memory.byteLength
    if (this.#idleBytes + size > MAX_IDLE_BYTES) {
      this.#onDrop(block)
      return
    }
    this.#idleBytes += size
    const same = this.#idle.get(size)
    if (same === undefined) this.#idle.set(size, [block])
    else same.push(block)
  }
}
