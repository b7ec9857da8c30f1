import { createHash } from 'node:crypto'
import { appendFile, mkdir, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { isBlobCid } from './blob-cid.ts'
import type { BlobSpec } from './blob-spec.ts'
import type { BlobStore } from './blob-store.ts'
import { canonicalJson } from './canonical-json.ts'
import { readSmallFile } from './files.ts'

/** Changes whenever the same specification gives other bytes than before. */
const ENCODING = 1
const MAX_JOURNAL_BYTES = 16 * 2 ** 20

/**
 * Which blobs of an unfinished packing are in the store, so that the same packing can go on after it was cut off, also by kill -9.
 * One line `<index> <cid>` for each blob, appended once the blob is complete; a cut last line is not believed.
 */
export class PackJournal {
  readonly #path: string
  /** CIDs by index of the specification, as found on opening. */
  readonly found: ReadonlyMap<number, string>

  private constructor(path: string, found: ReadonlyMap<number, string>) {
    this.#path = path
    this.found = found
  }

  /** The journal of these specifications and these states of the checkpoint's files. */
  static async open(store: BlobStore, specs: readonly BlobSpec[], files: readonly string[]): Promise<PackJournal> {
    const states = await Promise.all(
      files.map(async (file) => {
        const { size, mtimeMs, ino } = await stat(file)
        return { file, size, mtimeMs, ino }
      }),
    )
    const key = createHash('sha256')
      .update(canonicalJson({ encoding: ENCODING, specs, states }))
      .digest('hex')
    const dir = join(store.dir, 'packing')
    await mkdir(dir, { recursive: true })
    const path = join(dir, key)
    const text = (await readSmallFile(path, MAX_JOURNAL_BYTES))?.toString('latin1') ?? ''
    const found = new Map<number, string>()
    for (const line of text.split('\n').slice(0, -1)) {
      const [index, cid] = line.split(' ')
      if (cid !== undefined && isBlobCid(cid)) found.set(Number(index), cid)
    }
    return new PackJournal(path, found)
  }

  async add(index: number, cid: string): Promise<void> {
    await appendFile(this.#path, `${index} ${cid}\n`)
  }

  async remove(): Promise<void> {
    await rm(this.#path, { force: true })
  }
}
