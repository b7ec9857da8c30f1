import { mkdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import type { Stats } from 'node:fs'
import { join } from 'node:path'

const FOLDER = 'verified'
/** Hashing less takes no longer than looking it up. */
const MIN_BYTES = 2 ** 20
/** Disks lose bits without telling anybody: what was right a week ago is hashed again. */
const VALID_MS = 7 * 24 * 60 * 60 * 1000
/** Until the system has written a changed file to the disk (Linux: 35 s); and soon after a change another may leave the same times. */
const SETTLED_MS = 60_000

/**
 * Remembers over restarts in which state the files of blobs were when their hash was found right, one small file per blob. What can't be
 * read or written is only hashed once more.
 */
export class VerifiedBlobs {
  readonly #dir: string

  /** `storeDir`: of the blobs. */
  constructor(storeDir: string) {
    this.#dir = join(storeDir, FOLDER)
  }

  async has(cid: string, stats: Stats): Promise<boolean> {
    if (stats.size < MIN_BYTES) return false
    const path = join(this.#dir, cid)
    try {
      const ageMs = Date.now() - (await stat(path)).mtimeMs
      // Of the future it is when the clock was set back: nobody knows how old it is.
      return ageMs >= 0 && ageMs < VALID_MS && (await readFile(path, 'utf8')) === fileState(stats)
    } catch {
      // No note, or none that can be read.
      return false
    }
  }

  /** `stats`: from before the file was read. */
  async add(cid: string, stats: Stats): Promise<void> {
    if (stats.size < MIN_BYTES || Date.now() - stats.ctimeMs < SETTLED_MS) return
    try {
      await mkdir(this.#dir, { recursive: true })
      await writeFile(join(this.#dir, cid), fileState(stats))
    } catch {
      // A store that can only be read.
    }
  }

  async delete(cid: string): Promise<void> {
    await rm(join(this.#dir, cid), { force: true }).catch(() => {})
  }
}

/** Changes whenever the file's content may have changed. */
export function fileState({ ino, size, mtimeMs, ctimeMs }: Stats): string {
  return `${ino}:${size}:${mtimeMs}:${ctimeMs}`
}
