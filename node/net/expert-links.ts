import { peerIdFromString } from '@libp2p/peer-id'
import type { Connection, PeerId, Stream } from '@libp2p/interface'
import { PeerLostError } from '../../protocols/wire/errors.ts'
import { EXPERT_PROTOCOL, ExpertClient } from '../../protocols/expert/index.ts'
import { bestConnection, isBetterLink, linkKind } from './link-kind.ts'

/** What links need of the mesh. */
export interface Dialer {
  dial(peer: PeerId, options: { signal: AbortSignal }): Promise<Connection>
  getConnections(peer: PeerId): Connection[]
}

interface Link {
  readonly client: ExpertClient
  readonly connection: Connection
}

const OPEN_TIMEOUT_MS = 15_000

/** The long-lived expert streams of this driver, one per host. */
export class ExpertLinks {
  readonly #dialer: Dialer
  readonly #open = new Map<string, Link>()
  /** Replaced by better ones, until their last calls have ended. */
  readonly #retired = new Set<ExpertClient>()
  readonly #opening = new Map<string, Promise<ExpertClient>>()
  readonly #stopping = new AbortController()
  /** `detail`: what carries an open link, or why it closed. */
  readonly #onChange: (peer: string, open: boolean, detail: string) => void
  /** Grows whenever a link opens or closes. */
  changes = 0
  #closedSent = 0
  #closedReceived = 0

  constructor(init: { dialer: Dialer; onChange: (peer: string, open: boolean, detail: string) => void }) {
    this.#dialer = init.dialer
    this.#onChange = init.onChange
  }

  get(peer: string): ExpertClient | undefined {
    return this.#open.get(peer)?.client
  }

  get size(): number {
    return this.#open.size
  }

  /** Bytes sent and received over all links so far. */
  get bytes(): { sent: number; received: number } {
    let sent = this.#closedSent
    let received = this.#closedReceived
    for (const client of this.#clients()) {
      sent += client.bytesSent
      received += client.bytesReceived
    }
    return { sent, received }
  }

  isOpening(peer: string): boolean {
    return this.#opening.has(peer)
  }

  /** The link to a host, dialled if need be. Rejects with `PeerLostError` when the host can't be reached. */
  open(peer: string): Promise<ExpertClient> {
    const open = this.#open.get(peer)
    if (open !== undefined) return Promise.resolve(open.client)
    let opening = this.#opening.get(peer)
    if (opening === undefined) {
      opening = this.#dial(peer).finally(() => this.#opening.delete(peer))
      this.#opening.set(peer, opening)
    }
    return opening
  }

  close(peer: string): void {
    this.#open.get(peer)?.client.close()
  }

  stop(): void {
    this.#stopping.abort(new Error('the node is stopping'))
    for (const client of this.#clients()) client.close()
  }

  /** True when the peer is connected in a better way than that which its link uses. */
  canImprove(peer: string): boolean {
    return this.#better(peer) !== undefined && !this.#opening.has(peer)
  }

  /**
   * Opens a second link over the better connection and moves new calls to it; calls under way end where they began. Resolves with true
   * when it did; rejects with `PeerLostError` when the better connection does not serve, and all stays as it was.
   */
  async improve(peer: string): Promise<boolean> {
    if (!this.canImprove(peer)) return false
    const opening = this.#start(this.#better(peer)!, peer).finally(() => this.#opening.delete(peer))
    this.#opening.set(peer, opening)
    await opening
    return true
  }

  #better(peer: string): Connection | undefined {
    const link = this.#open.get(peer)
    if (link === undefined) return undefined
    const best = bestConnection(this.#dialer.getConnections(link.connection.remotePeer))
    return best !== undefined && isBetterLink(best, link.connection) ? best : undefined
  }

  async #dial(peer: string): Promise<ExpertClient> {
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(OPEN_TIMEOUT_MS)])
    try {
      const id = peerIdFromString(peer)
      const connection = bestConnection(this.#dialer.getConnections(id)) ?? (await this.#dialer.dial(id, { signal }))
      return await this.#start(connection, peer)
    } catch (error) {
      if (error instanceof PeerLostError) throw error
      throw new PeerLostError(`cannot reach host ${peer}: ${(error as Error).message}`, { cause: error })
    }
  }

  async #start(connection: Connection, peer: string): Promise<ExpertClient> {
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(OPEN_TIMEOUT_MS)])
    let stream: Stream
    try {
      stream = await connection.newStream(EXPERT_PROTOCOL, { signal, runOnLimitedConnection: true })
    } catch (error) {
      throw new PeerLostError(`host ${peer} does not serve expert calls: ${(error as Error).message}`, { cause: error })
    }
    const client: ExpertClient = new ExpertClient(stream, peer, (error) => {
      this.#closedSent += client.bytesSent
      this.#closedReceived += client.bytesReceived
      this.#retired.delete(client)
      if (this.#open.get(peer)?.client !== client) return
      this.#open.delete(peer)
      this.changes++
      this.#onChange(peer, false, error.message)
    })
    await client.ready()
    const previous = this.#open.get(peer)
    this.#open.set(peer, { client, connection })
    this.changes++
    if (previous !== undefined) {
      this.#retired.add(previous.client)
      previous.client.retire()
    }
    this.#onChange(peer, true, linkKind(connection))
    return client
  }

  *#clients(): Generator<ExpertClient> {
    for (const { client } of this.#open.values()) yield client
    yield* this.#retired
  }
}
