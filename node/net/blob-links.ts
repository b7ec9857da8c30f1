import type { PeerId, Stream } from '@libp2p/interface'
import { peerIdFromString } from '@libp2p/peer-id'
import { BLOB_PROTOCOL, BlobClient } from '../../protocols/blob/index.ts'
import { PeerLostError } from '../../protocols/wire/errors.ts'

/** The one thing links need of the mesh. */
export interface StreamDialer {
  dialProtocol(peer: PeerId, protocol: string, options: { signal: AbortSignal; runOnLimitedConnection: true }): Promise<Stream>
}

const OPEN_TIMEOUT_MS = 10_000
/** A stream nobody uses is kept for the next blob this long: peers serve a limited number. */
const LINGER_MS = 10_000

interface Link {
  readonly client: BlobClient
  users: number
  timer: NodeJS.Timeout | null
}

/** Streams of `/skein/blob/1` to the peers that this node fetches from, one each, opened when needed and closed after use. */
export class BlobLinks {
  readonly #dialer: StreamDialer
  readonly #links = new Map<string, Link>()
  readonly #opening = new Map<string, Promise<Link>>()
  readonly #stopping = new AbortController()

  constructor(dialer: StreamDialer) {
    this.#dialer = dialer
  }

  /** A stream to the peer; give it back with {@link release}. Rejects with `PeerLostError` when the peer can't be reached. */
  async acquire(peer: string): Promise<BlobClient> {
    const known = this.#links.get(peer)
    let opening = known?.client.isOpen === true ? Promise.resolve(known) : this.#opening.get(peer)
    if (opening === undefined) {
      opening = this.#open(peer).finally(() => this.#opening.delete(peer))
      this.#opening.set(peer, opening)
    }
    const link = await opening
    link.users++
    if (link.timer !== null) clearTimeout(link.timer)
    link.timer = null
    return link.client
  }

  release(client: BlobClient): void {
    const link = this.#links.get(client.peer)
    if (link === undefined || link.client !== client) return
    link.users--
    if (link.users === 0) link.timer = setTimeout(() => client.close(), LINGER_MS)
  }

  stop(): void {
    this.#stopping.abort(new Error('the node is stopping'))
    for (const { client } of this.#links.values()) client.close()
  }

  async #open(peer: string): Promise<Link> {
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(OPEN_TIMEOUT_MS)])
    try {
      const stream = await this.#dialer.dialProtocol(peerIdFromString(peer), BLOB_PROTOCOL, { signal, runOnLimitedConnection: true })
      const client: BlobClient = new BlobClient(stream, peer, () => {
        if (link.timer !== null) clearTimeout(link.timer)
        if (this.#links.get(peer) === link) this.#links.delete(peer)
      })
      const link: Link = { client, users: 0, timer: null }
      this.#links.set(peer, link)
      return link
    } catch (error) {
      throw new PeerLostError(`cannot fetch blobs from ${peer}: ${(error as Error).message}`, { cause: error })
    }
  }
}
