import type { BlobClient } from '../../protocols/blob/index.ts'
import { isMeshError, PeerLostError } from '../../protocols/wire/errors.ts'
import type { BlobStore } from '../model/blob-store.ts'
import { LIMITS as STORE_LIMITS } from '../model/blob-store.ts'
import { digestHex } from '../model/digest.ts'
import type { LinkRates } from '../router/link-rates.ts'
import type { BlobLinks } from '../net/blob-links.ts'
import { blobRanges } from './blob-ranges.ts'
import type { TransferPace } from './transfer-pace.ts'

export interface BlobFetcherComponents {
  readonly store: BlobStore
  readonly links: Pick<BlobLinks, 'acquire' | 'release'>
  readonly pace: Pick<TransferPace, 'turn'>
  readonly rates?: Pick<LinkRates, 'transferred'>
  readonly log: (event: string, fields: Record<string, unknown>) => void
}

export interface FetchRequest {
  readonly cid: string
  /** What the manifest says; null for a manifest, whose size is asked for. */
  readonly bytes: number | null
  /** Largest size taken where it is not known. */
  readonly maxBytes?: number
  /** Peers that may have it, best first; asked again when those of before failed. */
  readonly sources: () => Promise<readonly string[]> | readonly string[]
  readonly signal: AbortSignal
}

/** Peers that send one blob at once; more add little and cost each of them a stream. */
const MAX_SOURCES = 4
/** Times that all sources may fail before the fetch does. */
const MAX_ROUNDS = 3
/** A peer that sent wrong bytes is not asked for so long. */
const DISTRUST_MS = 60 * 60_000
const MAX_DISTRUSTED = 1024

/**
 * Fetches blobs from peers into the store: ranges from several at once, streamed through the hash, kept over interruptions. A whole that
 * does not match its name is fetched again from one peer after the other; the one whose bytes alone do not match is not asked again.
 */
export class BlobFetcher {
  readonly #components: BlobFetcherComponents
  readonly #fetching = new Map<string, Promise<boolean>>()
  readonly #distrusted = new Map<string, number>()
  /** Bytes of blobs that were fetched. */
  fetchedBytes = 0

  constructor(components: BlobFetcherComponents) {
    this.#components = components
  }

  /** Resolves once the blob is in the store with the right content: true when it came from peers, false when it was there. Throws `PeerLostError` when nobody sends it, `ModelError`, or `signal.reason`. */
  fetch(request: FetchRequest): Promise<boolean> {
    const known = this.#fetching.get(request.cid)
    if (known !== undefined) return known
    const fetching = this.#fetch(request).finally(() => this.#fetching.delete(request.cid))
    this.#fetching.set(request.cid, fetching)
    return fetching
  }

  async #fetch(request: FetchRequest): Promise<boolean> {
    const { store } = this.#components
    const { cid, signal } = request
    const lack = await this.#lack(cid)
    if (lack === null) return false
    let last: unknown = new PeerLostError(`${lack}; no peer is known that has it`)
    const tried = new Set<string>()
    for (let round = 0; round < MAX_ROUNDS; round++) {
      signal.throwIfAborted()
      const sources = await request.sources()
      const untriedFirst = [...sources.filter((peer) => !tried.has(peer)), ...sources.filter((peer) => tried.has(peer))]
      const { clients, failure } = await this.#connect(untriedFirst)
      if (failure !== null) last = failure
      for (const { peer } of clients) tried.add(peer)
      try {
        if (clients.length === 0) continue
        const bytes = request.bytes ?? (await this.#askSize(clients, request))
        if (bytes > (request.maxBytes ?? STORE_LIMITS.blobBytes)) throw new PeerLostError(`blob ${cid} is said to have ${bytes} bytes`)
        if (await this.#take(cid, bytes, clients, signal, false)) return true
        for (const client of clients) {
          try {
            if (await this.#take(cid, bytes, [client], signal, true)) return true
          } catch (error) {
            // The next may still have it; a full disk or an end of the wish is no fault of a peer.
            if (signal.aborted || !isMeshError(error, 'PeerLostError')) throw error
            last = error
          }
        }
      } catch (error) {
        signal.throwIfAborted()
        if (!isMeshError(error, 'PeerLostError')) throw error
        last = error
      } finally {
        for (const client of clients) this.#components.links.release(client)
      }
    }
    if (await store.has(cid)) return true
    throw last
  }

  /** Why the blob is not there; null when it is. A corrupt one is put aside by the store and fetched again. */
  async #lack(cid: string): Promise<string | null> {
    return await this.#components.store.path(cid).then(
      () => null,
      (error: Error) => error.message,
    )
  }

  /** False when the content was wrong; from a single peer that convicts it. */
  async #take(cid: string, bytes: number, clients: readonly BlobClient[], signal: AbortSignal, isAlone: boolean): Promise<boolean> {
    const { store, pace, rates, log } = this.#components
    const onRange = (peer: string, bytes: number, ms: number): void => rates?.transferred(peer, bytes, ms)
    const startedAt = performance.now()
    let received = 0
    const source = (from: number): AsyncIterable<Uint8Array> => {
      received = bytes - from
      return blobRanges({ digest: digestHex(cid), blobBytes: bytes, from, clients, pace, onRange, signal })
    }
    const isRight = await store.resume(cid, source, { bytes, fromStart: isAlone, signal })
    if (isRight) {
      this.fetchedBytes += received
      log('blob.fetched', { cid, bytes: received, peers: clients.length, ms: Math.round(performance.now() - startedAt) })
      return true
    }
    log('blob.wrong', { cid, peers: clients.map(({ peer }) => peer) })
    const [only] = clients
    if (isAlone && only !== undefined) this.#distrust(only.peer)
    return false
  }

  /** Links to the first few of the peers that can be reached, and why the last of the others could not. */
  async #connect(peers: readonly string[]): Promise<{ clients: BlobClient[]; failure: unknown }> {
    const trusted = peers.filter((peer) => !this.#isDistrusted(peer)).slice(0, MAX_SOURCES)
    const clients = await Promise.allSettled(trusted.map((peer) => this.#components.links.acquire(peer)))
    return {
      clients: clients.flatMap((result) => (result.status === 'fulfilled' ? [result.value] : [])),
      failure: clients.findLast((result) => result.status === 'rejected')?.reason ?? null,
    }
  }

  async #askSize(clients: readonly BlobClient[], { cid }: FetchRequest): Promise<number> {
    const answers = clients.map((client) => client.read({ digest: digestHex(cid), offset: 0, length: 0 }))
    try {
      return (await Promise.any(answers)).blobBytes
    } catch (error) {
      throw new PeerLostError(`no peer that was asked has blob ${cid}`, { cause: error })
    }
  }

  #distrust(peer: string): void {
    if (this.#distrusted.size >= MAX_DISTRUSTED) this.#distrusted.delete(this.#distrusted.keys().next().value!)
    this.#distrusted.set(peer, Date.now() + DISTRUST_MS)
  }

  #isDistrusted(peer: string): boolean {
    return (this.#distrusted.get(peer) ?? 0) > Date.now()
  }
}
