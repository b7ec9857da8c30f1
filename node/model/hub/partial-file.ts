import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, open, rename, rm, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { ModelError } from '../../errors.ts'
import { readJsonObject, writeFileAtomic } from '../files.ts'
import type { HubFile } from './hub-client.ts'

/** Loss of a download that is killed: this much for each connection at most. */
export const PART_BYTES = 16 * 2 ** 20
const MAX_STATE_BYTES = 2 ** 20
const READ_CHUNK_BYTES = 2 ** 20

/** A stretch of a file. */
export interface Part {
  readonly index: number
  readonly from: number
  readonly to: number
}

/**
 * A file that is being downloaded: `<path>.part` with the bytes, `<path>.part.json` with how far each part has come.
 * It appears under its own name once its hash is right.
 */
export class PartialFile {
  readonly path: string
  readonly file: HubFile
  /** Bytes at the beginning of each part that are there. */
  readonly #begun: Map<number, number>

  private constructor(path: string, file: HubFile, begun: Map<number, number>) {
    this.path = path
    this.file = file
    this.#begun = begun
  }

  /** Goes on where an earlier download of the same content ended; undefined when the file is there already. */
  static async open(path: string, file: HubFile): Promise<PartialFile | undefined> {
    const present = await stat(path).catch(() => undefined)
    if (present !== undefined && present.size === file.bytes) return undefined
    await mkdir(dirname(path), { recursive: true })
    const part = await stat(`${path}.part`).catch(() => undefined)
    const state = part === undefined ? undefined : await readJsonObject(`${path}.part.json`, MAX_STATE_BYTES).catch(() => undefined)
    const begun = readState(state, file)
    if (begun.size === 0) await (await open(`${path}.part`, 'w')).close()
    return new PartialFile(path, file, begun)
  }

  /** What is still to come of each part. */
  get missing(): Part[] {
    const count = Math.ceil(this.file.bytes / PART_BYTES)
    const parts = Array.from({ length: count }, (_, index) => ({
      index,
      from: index * PART_BYTES + (this.#begun.get(index) ?? 0),
      to: Math.min(this.file.bytes, (index + 1) * PART_BYTES),
    }))
    return parts.filter(({ from, to }) => from < to)
  }

  /** Remembers that a part's bytes up to `at` are written. */
  async keep({ index }: Part, at: number): Promise<void> {
    this.#begun.set(index, at - index * PART_BYTES)
    const state = { hash: this.file.hash.hex, partBytes: PART_BYTES, begun: [...this.#begun] }
    await writeFileAtomic(`${this.path}.part.json`, JSON.stringify(state))
  }

  /** Checks the whole file and puts it in place. Throws `ModelError` when its bytes are wrong; then nothing of it is kept. */
  async finish(signal: AbortSignal): Promise<void> {
    const { hash, bytes } = this.file
    const digest = createHash(hash.kind === 'sha256' ? 'sha256' : 'sha1')
    // What git hashes of a file.
    if (hash.kind === 'git') digest.update(`blob ${bytes}\0`)
    for await (const chunk of createReadStream(`${this.path}.part`, { highWaterMark: READ_CHUNK_BYTES })) {
      signal.throwIfAborted()
      digest.update(chunk as Uint8Array)
    }
    const found = digest.digest('hex')
    if (found !== hash.hex) {
      await this.#discard()
      throw new ModelError(
        `${this.path} came with the wrong content (it hashes to ${found}, the hub says ${hash.hex}): run the same command again to fetch it anew`,
      )
    }
    await rename(`${this.path}.part`, this.path)
    await rm(`${this.path}.part.json`, { force: true })
  }

  async #discard(): Promise<void> {
    await rm(`${this.path}.part.json`, { force: true })
    await rm(`${this.path}.part`, { force: true })
  }
}

/** Empty for a state that is of other content, or damaged. */
function readState(state: Record<string, unknown> | undefined, file: HubFile): Map<number, number> {
  const begun = new Map<number, number>()
  if (state?.['hash'] !== file.hash.hex || state['partBytes'] !== PART_BYTES || !Array.isArray(state['begun'])) return begun
  for (const [index, bytes] of state['begun'] as [unknown, unknown][]) {
    if (Number.isSafeInteger(index) && Number.isSafeInteger(bytes) && (bytes as number) >= 0) begun.set(index as number, bytes as number)
  }
  return begun
}
