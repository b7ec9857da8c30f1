import { peerIdFromString } from '@libp2p/peer-id'
import type { PeerId, Stream } from '@libp2p/interface'
import { PeerLostError } from '../../protocols/wire/errors.ts'
import { EXPERT_PROTOCOL, ExpertClient } from '../../protocols/expert/index.ts'

/** The one thing links need of the mesh. */
export interface Dialer {
  dialProtocol(peer: PeerId, protocol: string, options: { signal: AbortSignal; runOnLimitedConnection: true }): Promise<Stream>
}

const OPEN_TIMEOUT_MS = 15_000

/** The long-lived expert streams of this driver, one per host. */
export class ExpertLinks {
  readonly #dialer: Dialer
  readonly #open = new Map<string, ExpertClient>()
  readonly #opening = new Map<string, Promise<ExpertClient>>()
  readonly #stopping = new AbortController()
  readonly #onChange: (peer: string, open: boolean, reason: string) => void
  #closedSent = 0
  #closedReceived = 0

  constructor(init: { dialer: Dialer; onChange: (peer: string, open: boolean, reason: string) => void }) {
    this.#dialer = init.dialer
    this.#onChange = init.onChange
  }

  get(peer: string): ExpertClient | undefined {
    return this.#open.get(peer)
  }

  get size(): number {
    return this.#open.size
  }

  /** Bytes sent and received over all links so far. */
  get bytes(): { sent: number; received: number } {
    let sent = this.#closedSent
    let received = this.#closedReceived
    for (const client of this.#open.values()) {
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
    if (open !== undefined) return Promise.resolve(open)
    let opening = this.#opening.get(peer)
    if (opening === undefined) {
      opening = this.#dial(peer).finally(() => this.#opening.delete(peer))
      this.#opening.set(peer, opening)
    }
    return opening
  }

  close(peer: string): void {
    this.#open.get(peer)?.close()
  }

  stop(): void {
    this.#stopping.abort(new Error('the node is stopping'))
    for (const client of this.#open.values()) client.close()
  }

  async #dial(peer: string): Promise<ExpertClient> {
    const signal = AbortSignal.any([this.#stopping.signal, AbortSignal.timeout(OPEN_TIMEOUT_MS)])
    try {
      const stream = await this.#dialer.dialProtocol(peerIdFromString(peer), EXPERT_PROTOCOL, { signal, runOnLimitedConnection: true })
      const client: ExpertClient = new ExpertClient(stream, peer, (error) => {
        this.#closedSent += client.bytesSent
        this.#closedReceived += client.bytesReceived
        if (this.#open.get(peer) !== client) return
        this.#open.delete(peer)
        this.#onChange(peer, false, error.message)
      })
      await client.ready()
      this.#open.set(peer, client)
      this.#onChange(peer, true, '')
      return client
    } catch (error) {
      if (error instanceof PeerLostError) throw error
      throw new PeerLostError(`cannot reach host ${peer}: ${(error as Error).message}`, { cause: error })
    }
  }
}
