import { mkdir } from 'node:fs/promises'
import { NotFoundError } from '@libp2p/interface'
import { Key } from 'interface-datastore'
import { LevelDatastore } from 'datastore-level'
import { ConfigError } from '../errors.ts'

/** Where `@libp2p/kad-dht` 16.4.5 keeps provider records, as `<prefix>/<multihash>/<peer>`. */
const PROVIDERS = '/dht/provider'

/**
 * What libp2p remembers on disk: peers and DHT records. libp2p goes on looking up and storing what it learns of peers while it stops and
 * does not await it, so after `close` nothing is found and nothing is kept: errors would come back as rejections that nobody can handle.
 */
export class MeshDatastore extends LevelDatastore {
  #isClosed = false

  override async get(key: Key, options?: Parameters<LevelDatastore['get']>[1]): Promise<Uint8Array> {
    if (this.#isClosed) throw new NotFoundError('the datastore is closed')
    return await super.get(key, options)
  }

  override async has(key: Key, options?: Parameters<LevelDatastore['has']>[1]): Promise<boolean> {
    return !this.#isClosed && (await super.has(key, options))
  }

  override async put(key: Key, value: Uint8Array, options?: Parameters<LevelDatastore['put']>[2]): Promise<Key> {
    return this.#isClosed ? key : await super.put(key, value, options)
  }

  override async delete(key: Key, options?: Parameters<LevelDatastore['delete']>[1]): Promise<void> {
    if (!this.#isClosed) await super.delete(key, options)
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
    await super.close()
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
