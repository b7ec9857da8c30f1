import { readRecords, writeRecords } from './record-store.ts'
import type { StoredRecord } from './record-store.ts'

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

  /** The records of the file, and what is wrong with it, if anything. Throws what the file system throws. */
  async load(nowMs: number): Promise<{ readonly records: readonly StoredRecord[]; readonly damage: Error | null }> {
    this.#lastMs = nowMs
    if (this.#file === null) return { records: [], damage: null }
    const { records, isDamaged } = await readRecords(this.#file)
    return { records, damage: isDamaged ? new Error(`${this.#file} is damaged; what is missing comes from peers again`) : null }
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

  /** Writes what `records` returns once the write before it has ended. Throws what the file system throws. */
  async save(records: () => Iterable<StoredRecord>): Promise<void> {
    const file = this.#file
    if (file === null) return
    const next = this.#saving
      .catch(() => {})
      .then(async () => {
        this.#isUnsaved = false
        await writeRecords(file, records())
      })
    this.#saving = next
    await next
  }
}
