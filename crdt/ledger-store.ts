import { readRecords, writeRecords } from './record-store.ts'

export interface LedgerStoreInit {
  /** null: nothing is kept, everything comes from peers again. */
  readonly file: string | null
  readonly persistIntervalMs: number
}

/** The file of a ledger: when it is written, one write after the other. */
export class LedgerStore {
  readonly #file: string | null
  readonly #persistIntervalMs: number
  #lastMs = 0
  #isUnsaved = false
  #saving: Promise<void> = Promise.resolve()

  constructor(init: LedgerStoreInit) {
    this.#file = init.file
    this.#persistIntervalMs = init.persistIntervalMs
  }

  /** The envelopes of the file, and what is wrong with it, if anything. Throws what the file system throws. */
  async load(nowMs: number): Promise<{ readonly envelopes: readonly Uint8Array[]; readonly damage: Error | null }> {
    this.#lastMs = nowMs
    if (this.#file === null) return { envelopes: [], damage: null }
    const { envelopes, isDamaged } = await readRecords(this.#file)
    return { envelopes, damage: isDamaged ? new Error(`${this.#file} is damaged; what is missing comes from peers again`) : null }
  }

  /** Something changed that the file should hold. */
  touch(): void {
    this.#isUnsaved = true
  }

  /** Whether it is time to write; counts as the write. */
  isDue(nowMs: number): boolean {
    if (this.#file === null || !this.#isUnsaved || nowMs < this.#lastMs + this.#persistIntervalMs) return false
    this.#lastMs = nowMs
    return true
  }

  /** Writes what `envelopes` returns once the write before it has ended. Throws what the file system throws. */
  async save(envelopes: () => Iterable<Uint8Array>): Promise<void> {
    const file = this.#file
    if (file === null) return
    const next = this.#saving
      .catch(() => {})
      .then(async () => {
        this.#isUnsaved = false
        await writeRecords(file, envelopes())
      })
    this.#saving = next
    await next
  }
}
