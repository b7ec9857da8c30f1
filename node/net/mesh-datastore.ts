import { mkdir } from 'node:fs/promises'
import { NotFoundError } from '@libp2p/interface'
import { Key } from 'interface-datastore'
import { LevelDatastore } from 'datastore-level'
import { ConfigError } from '../errors.ts'

/** Where `@libp2p/kad-dht` 16.4.5 keeps provider records, as `<prefix>/<multihash>/<peer>`. */
const PROVIDERS = '/dht/provider'

/** Entries kept in memory, some hundred bytes each: those of the peers that a node deals with. */
const MAX_RECENT = 512
/** LevelDB's own are 8 MiB and 4 MiB, for databases that hold more than a few hundred peers. */
const LEVEL_OPTIONS = Object.freeze({ cacheSize: 512 * 1024, writeBufferSize: 512 * 1024 })

/** What was written is on disk after so long; a crash costs what was learned of peers since then. */
const FLUSH_MS = 1_000

/**
 * What libp2p remembers on disk: peers and DHT records. It looks up the same few peers thousands of times a minute and writes each several
 * times when it connects, so what was read or written lately is kept in memory, and written out once a second, all at once.
 *
 * libp2p goes on looking up and storing what it learns of peers while it stops and does not await it, so after `close` nothing is found and
 * nothing is kept: errors would come back as rejections that nobody can handle.
 */
export class MeshDatastore extends LevelDatastore {
  /** Null for what is known not to be there; the one used last comes last. */
  readonly #recent = new Map<string, Uint8Array | null>()
  /** Not on disk yet; null for what is to be deleted. */
  readonly #unsaved = new Map<string, Uint8Array | null>()
  #flushing: Promise<void> = Promise.resolve()
  #timer: NodeJS.Timeout | null = null
  #writes = 0
  #isClosed = false

  constructor(dir: string) {
    super(dir, LEVEL_OPTIONS)
  }

  override async get(key: Key, options?: Parameters<LevelDatastore['get']>[1]): Promise<Uint8Array> {
    if (this.#isClosed) throw new NotFoundError('the datastore is closed')
    const value = await this.#look(key, options)
    if (value === null) throw new NotFoundError(`${key.toString()} is not in the datastore`)
    return value
  }

  override async has(key: Key, options?: Parameters<LevelDatastore['has']>[1]): Promise<boolean> {
    return !this.#isClosed && (await this.#look(key, options)) !== null
  }

  override put(key: Key, value: Uint8Array): Promise<Key> {
    this.#write(key, value)
    return Promise.resolve(key)
  }

  override delete(key: Key): Promise<void> {
    this.#write(key, null)
    return Promise.resolve()
  }

  override async *query(...args: Parameters<LevelDatastore['query']>): ReturnType<LevelDatastore['query']> {
    await this.flush()
    yield* super.query(...args)
  }

  override async *queryKeys(...args: Parameters<LevelDatastore['queryKeys']>): ReturnType<LevelDatastore['queryKeys']> {
    await this.flush()
    yield* super.queryKeys(...args)
  }

  /** Resolves when all that was written before is on disk. Rejects when the disk takes it not; then it is tried again. */
  async flush(): Promise<void> {
    this.#flushing = this.#flushing.catch(() => {}).then(() => this.#save())
    await this.#flushing
  }

  /** Forgets what the peer, this node, provided in former runs: the DHT would announce it for ever, held or not. */
  async forgetProvided(peer: string): Promise<void> {
    const filters = [(key: Key) => key.name() === peer]
    for await (const key of this.queryKeys({ prefix: PROVIDERS, filters })) await this.delete(key)
  }

  /** Idempotent; waits for what is being written. */
  override async close(): Promise<void> {
    if (this.#isClosed) return
    this.#isClosed = true
    if (this.#timer !== null) clearTimeout(this.#timer)
    try {
      await this.flush()
    } finally {
      await super.close()
    }
  }

  async #look(key: Key, options: Parameters<LevelDatastore['get']>[1]): Promise<Uint8Array | null> {
    const unsaved = this.#unsaved.get(key.toString())
    if (unsaved !== undefined) return unsaved
    const known = this.#recent.get(key.toString())
    if (known !== undefined) {
      this.#remember(key, known)
      return known
    }
    const writes = this.#writes
    let value: Uint8Array | null
    try {
      value = await super.get(key, options)
    } catch (error) {
      if ((error as Error).name !== 'NotFoundError') throw error
      value = null
    }
    // It may have been read before something was written.
    if (writes === this.#writes) this.#remember(key, value)
    return value
  }

  #write(key: Key, value: Uint8Array | null): void {
    if (this.#isClosed) return
    this.#writes++
    this.#remember(key, value)
    this.#unsaved.set(key.toString(), value)
    // A disk that is full takes it perhaps a second later.
    this.#timer ??= setTimeout(() => {
      this.#timer = null
      this.flush().catch(() => {})
    }, FLUSH_MS)
  }

  async #save(): Promise<void> {
    const saving = [...this.#unsaved]
    if (saving.length === 0) return
    const batch = this.batch()
    for (const [name, value] of saving) {
      if (value === null) batch.delete(new Key(name, false))
      else batch.put(new Key(name, false), value)
    }
    await batch.commit()
    for (const [name, value] of saving) if (this.#unsaved.get(name) === value) this.#unsaved.delete(name)
  }

  #remember(key: Key, value: Uint8Array | null): void {
    const name = key.toString()
    this.#recent.delete(name)
    this.#recent.set(name, value)
    if (this.#recent.size > MAX_RECENT) this.#recent.delete(this.#recent.keys().next().value!)
  }
}

/** Opens the folder for this process alone. Throws `ConfigError` when another one has it, or it can't be written. */
export async function openMeshDatastore(dir: string): Promise<MeshDatastore> {
  const datastore = new MeshDatastore(dir)
  try {
    await mkdir(dir, { recursive: true })
    await datastore.open()
    return datastore
  } catch (error) {
    throw new ConfigError(`cannot open ${dir}: is another skein node using this data directory? Stop it or pass another --data`, {
      cause: error,
    })
  }
}
