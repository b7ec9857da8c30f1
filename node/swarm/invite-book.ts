import { join } from 'node:path'
import { z } from 'zod'
import { LimitExceededError } from '../../protocols/wire/errors.ts'
import { readJsonFile, writeJsonFile } from './json-file.ts'

const SHAPE = z.array(
  z.object({
    /** Raw public key of the invite, hex. */
    key: z.string(),
    expiresAt: z.number(),
    /** 0 for any number. */
    uses: z.number(),
    /** Raw public keys of the peers admitted, hex. */
    admitted: z.array(z.string()),
  }),
)
type Entry = z.infer<typeof SHAPE>[number]

/** Invites remembered; those that have expired go first. */
const MAX_INVITES = 1_000

export type Admission = 'admitted' | 'unknown' | 'expired' | 'usedUp'

/** The invites that this node made, and whom each has admitted; on disk, so that a restart gives none of them new uses. */
export class InviteBook {
  readonly #file: string
  readonly #entries: Map<string, Entry>
  /** One write at a time, in order. */
  #writing: Promise<void> = Promise.resolve()

  private constructor(file: string, entries: readonly Entry[]) {
    this.#file = file
    this.#entries = new Map(entries.map((entry) => [entry.key, entry]))
  }

  /** Throws `ConfigError` for a damaged file. */
  static async open(dataDir: string, swarm: string): Promise<InviteBook> {
    const file = join(dataDir, 'swarms', `${swarm}.invites.json`)
    return new InviteBook(file, (await readJsonFile(file, SHAPE)) ?? [])
  }

  /** Enters an invite. Throws `LimitExceededError` when too many are still good. */
  async add(key: Uint8Array, expiresAt: number, uses: number): Promise<void> {
    for (const [id, entry] of this.#entries) if (entry.expiresAt < Date.now()) this.#entries.delete(id)
    if (this.#entries.size >= MAX_INVITES) {
      throw new LimitExceededError(`${MAX_INVITES} invites of this node have not expired yet: give one with several --uses`)
    }
    this.#entries.set(hex(key), { key: hex(key), expiresAt, uses, admitted: [] })
    await this.#write()
  }

  /** Whether the invite admits the peer now; if so the peer is entered, and a second time costs no further use. */
  async admit(key: Uint8Array, peer: Uint8Array, now: number): Promise<Admission> {
    const entry = this.#entries.get(hex(key))
    if (entry === undefined) return 'unknown'
    if (entry.expiresAt < now) return 'expired'
    if (entry.admitted.includes(hex(peer))) return 'admitted'
    if (entry.uses > 0 && entry.admitted.length >= entry.uses) return 'usedUp'
    entry.admitted.push(hex(peer))
    await this.#write()
    return 'admitted'
  }

  async #write(): Promise<void> {
    const write = this.#writing.then(() => writeJsonFile(this.#file, [...this.#entries.values()]))
    this.#writing = write.catch(() => {})
    await write
  }
}

function hex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
