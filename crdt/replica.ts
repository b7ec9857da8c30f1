import { compareVersions, decodeDigest, digestEntry, digestKey, encodeDigest } from '../protocols/ledger/messages.ts'
import type { Envelope } from '../protocols/ledger/messages.ts'
import { LIMITS } from '../protocols/ledger/protocol.ts'
import { NO_RECORD } from './record.ts'
import type { ReadRecord } from './record.ts'
import { RejectedRecordError } from './rejection.ts'
import { MergedView } from './view.ts'
import type { AuthorView } from './view.ts'

/** Memory of all records, decoded, that a replica keeps before it takes no further authors: bounds what invented authors can cost. */
const MAX_TOTAL_BYTES = 256 * 1024 * 1024

const READ = new Uint8Array()

/** One author's newest envelope and how long it counts. */
export interface Entry {
  readonly author: string
  readonly envelope: Envelope
  readonly record: ReadRecord
  readonly receivedMs: number
  /** When the author leaves the view. */
  readonly liveUntilMs: number
  /** When no envelope as old as this one can be accepted any more, so that this one need not be remembered. */
  readonly keepUntilMs: number
}

/** The newest envelope of every author, and the view merged from them. */
export class Replica {
  /** Author's key in hexadecimal → entry. */
  readonly #entries = new Map<string, Entry>()
  readonly #live = new Map<string, AuthorView>()
  /** Authors changed since the last view → what they were in it. */
  readonly #changed = new Map<string, AuthorView | undefined>()
  #view = new MergedView(new Map())
  #bytes = 0

  get size(): number {
    return this.#entries.size
  }

  get liveAuthors(): number {
    return this.#live.size
  }

  get(key: string): Entry | undefined {
    return this.#entries.get(key)
  }

  entries(): IterableIterator<Entry> {
    return this.#entries.values()
  }

  /** Throws `RejectedRecordError` with reason `full` when a further author would exceed the limits. */
  checkRoom(key: string, record: ReadRecord, envelopeBytes: number): void {
    const before = this.#entries.get(key)
    const bytes =
      this.#bytes + weigh(record, envelopeBytes) - (before === undefined ? 0 : weigh(before.record, before.envelope.bytes.length))
    if ((before === undefined && this.#entries.size >= LIMITS.maxAuthors) || bytes > MAX_TOTAL_BYTES) {
      throw new RejectedRecordError('full', 'the ledger holds as much as it may')
    }
  }

  put(key: string, entry: Entry, nowMs: number): void {
    this.#forget(key)
    // The document is read, and can be read again from the envelope's bytes.
    this.#entries.set(key, { ...entry, envelope: { ...entry.envelope, update: READ } })
    this.#bytes += weigh(entry.record, entry.envelope.bytes.length)
    const isLive = entry.record !== NO_RECORD && nowMs < entry.liveUntilMs
    const view = { ...entry.record.topics, updatedAt: entry.receivedMs, expiresAt: entry.liveUntilMs }
    this.show(entry.author, isLive ? view : undefined)
  }

  /** Puts an author into the view as it is to be seen, or takes it out. */
  show(author: string, view: AuthorView | undefined): void {
    const before = this.#live.get(author)
    if (before === undefined && view === undefined) return
    if (!this.#changed.has(author)) this.#changed.set(author, before)
    if (view === undefined) this.#live.delete(author)
    else this.#live.set(author, view)
  }

  /** Drops what is over; returns the authors that left the view. */
  expire(nowMs: number): string[] {
    const left: string[] = []
    for (const [key, entry] of this.#entries) {
      if (nowMs >= entry.liveUntilMs && this.#live.has(entry.author)) {
        this.show(entry.author, undefined)
        left.push(entry.author)
      }
      if (nowMs >= entry.keepUntilMs) this.#forget(key)
    }
    return left
  }

  view(): MergedView {
    if (this.#changed.size === 0) return this.#view
    const changes = [...this.#changed].map(([author, before]) => ({ peer: author, before, after: this.#live.get(author) }))
    // Only a newcomer changes the order; a map keeps the place of a key that is set again.
    const authors = new Map([...this.#live].sort(([a], [b]) => (a < b ? -1 : 1)))
    this.#view = new MergedView(authors, this.#view, changes)
    this.#changed.clear()
    return this.#view
  }

  /** Everything known, also what is no longer shown: a peer need not send that again. */
  digest(without: string | null): Uint8Array {
    const entries: ReturnType<typeof digestEntry>[] = []
    for (const [key, { envelope }] of this.#entries) if (key !== without) entries.push(digestEntry(envelope))
    return encodeDigest(entries)
  }

  /** Envelopes newer than a digest says, newest first. Records that ran out are not passed on: they would live again elsewhere. */
  missing(digest: Uint8Array, nowMs: number): Uint8Array[] {
    const theirs = decodeDigest(digest)
    const missing: Envelope[] = []
    for (const { envelope, record, liveUntilMs } of this.#entries.values()) {
      if (record !== NO_RECORD && nowMs >= liveUntilMs) continue
      const known = theirs.get(digestKey(envelope.authorKey))
      if (known === undefined) missing.push(envelope)
      else {
        const newer = envelope.epoch - known.epoch || envelope.seq - known.seq
        if (newer > 0 || (newer === 0 && digestEntry(envelope).check !== known.check)) missing.push(envelope)
      }
    }
    return missing.sort((a, b) => b.createdMs - a.createdMs).map((envelope) => envelope.bytes)
  }

  /** Throws `RejectedRecordError` with reason `stale` for an envelope older than the one kept; true for the very same. */
  isKnown(key: string, envelope: Envelope): boolean {
    const kept = this.#entries.get(key)?.envelope
    if (kept === undefined) return false
    if (Buffer.compare(kept.bytes, envelope.bytes) === 0) return true
    if (compareVersions(envelope, kept) < 0) throw new RejectedRecordError('stale', 'a newer record of this author is known')
    return false
  }

  #forget(key: string): void {
    const entry = this.#entries.get(key)
    if (entry === undefined) return
    this.#bytes -= weigh(entry.record, entry.envelope.bytes.length)
    this.#entries.delete(key)
  }
}

/** Bytes of memory that a record costs, roughly: 128 for the object that a layer's bitmap is. */
function weigh(record: ReadRecord, envelopeBytes: number): number {
  let bytes = envelopeBytes + 2048
  for (const topic of [record.topics.holdings, record.topics.leaving]) {
    for (const layers of topic?.values() ?? []) bytes += layers.length * 128
  }
  for (const { counts, heat } of record.topics.routing?.values() ?? []) bytes += counts.length * 9 + (heat?.pairs.codes.length ?? 0) * 9
  bytes += (record.topics.observed?.size ?? 0) * 512
  return bytes
}
