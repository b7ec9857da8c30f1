import type { Libp2p } from '@libp2p/interface'
import { BLOB_LIMITS, BLOB_PROTOCOL, createBlobHandler } from '../../protocols/blob/index.ts'
import type { BlobStore } from '../model/blob-store.ts'
import type { LinkRates } from '../router/link-rates.ts'
import { BlobLinks } from '../net/blob-links.ts'
import { BlobFetcher } from './blob-fetcher.ts'
import { createBlobReader } from './blob-reader.ts'
import { TransferPace } from './transfer-pace.ts'

export interface BlobTransferComponents {
  readonly mesh: Pick<Libp2p, 'handle' | 'unhandle' | 'dialProtocol'>
  readonly store: BlobStore
  /** Whether calls are being served or driven just now: blobs then hold back. */
  readonly isBusy: () => boolean
  /** Are told how fast peers send. */
  readonly rates?: Pick<LinkRates, 'transferred'>
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

/** Blobs between peers, both ways: serves the store's, and fetches what it lacks. */
export class BlobTransfer {
  readonly fetcher: BlobFetcher
  readonly #components: BlobTransferComponents
  readonly #links: BlobLinks
  /** Bytes of ranges that peers asked for and got. */
  servedBytes = 0

  constructor(components: BlobTransferComponents) {
    const { mesh, store, isBusy, rates, log } = components
    this.#components = components
    this.#links = new BlobLinks(mesh)
    this.fetcher = new BlobFetcher({
      store,
      links: this.#links,
      pace: new TransferPace({ isBusy }),
      ...(rates === undefined ? {} : { rates }),
      log,
    })
  }

  async start(): Promise<void> {
    const { mesh, store, isBusy, log } = this.#components
    const read = createBlobReader(store)
    const pace = new TransferPace({ isBusy })
    const handler = createBlobHandler({
      read: async (request) => {
        const range = await read(request)
        this.servedBytes += range?.bytes.length ?? 0
        return range
      },
      turn: (bytes) => pace.turn(bytes),
      onFailure: (peer, error) => log('blob.failed', { peer, reason: error.message }),
      onViolation: (peer, error) => log('blob.violation', { peer, reason: error.message }),
    })
    await mesh.handle(BLOB_PROTOCOL, (stream, connection) => handler(stream, connection.remotePeer.toString()), {
      runOnLimitedConnection: true,
      maxInboundStreams: BLOB_LIMITS.maxStreamsPerPeer,
    })
  }

  async stop(): Promise<void> {
    this.#links.stop()
    await this.#components.mesh.unhandle(BLOB_PROTOCOL)
  }
}
