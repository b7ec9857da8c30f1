import { EventEmitter } from 'node:events'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { EnvelopeKind, decodeEnvelope } from '../protocols/ledger/messages.ts'
import type { Envelope } from '../protocols/ledger/messages.ts'
import { LIMITS as WIRE_LIMITS } from '../protocols/ledger/protocol.ts'
import { DEFAULTS, MAX_CLOCK_SKEW_MS, MAX_TICK_MS, RECOVERY_MS } from './defaults.ts'
import type { Ledger, LedgerComponents, LedgerEvents, LedgerInit, LedgerStats, ReceiveResult } from './ledger-contract.ts'
import { LedgerStore } from './ledger-store.ts'
import type { StoredRecord } from './record-store.ts'
import { OwnRecord } from './own-record.ts'
import type { RoutedDelta } from './own-routing.ts'
import { PublishSchedule } from './publish-schedule.ts'
import { NO_RECORD, authorOf, checkSignature, parseEnvelope, readRecord } from './record.ts'
import { FAULTY_REASONS, HARMLESS_REASONS, RejectedRecordError, isFaulty } from './rejection.ts'
import type { RejectionReason } from './rejection.ts'
import { Replica } from './replica.ts'
import type { Topic, TopicValues } from './schema.ts'
import type { LedgerView } from './view.ts'

/** Throws `TypeError` for a key that is not Ed25519 or a swarm id of impossible length. */
export function createLedger(components: LedgerComponents, init: LedgerInit): Ledger {
  return new SignedLedger(components, init)
}

class SignedLedger extends EventEmitter<LedgerEvents> implements Ledger {
  readonly author: string
  readonly swarm: string
  readonly #own: OwnRecord
  readonly #key: string
  readonly #clock: () => number
  readonly #init: Omit<Required<LedgerInit>, 'storeFile'>
  readonly #store: LedgerStore
  readonly #schedule: PublishSchedule
  readonly #replica = new Replica()
  readonly #counts = { received: 0, applied: 0, known: 0, published: 0, storeFailures: 0 }
  readonly #rejected: Record<RejectionReason, number>
  /** Newest own record, kept beside a goodbye so that the counts in it are not lost. */
  #ownRecord: Uint8Array | null = null
  #lastRecoveryMs = 0
  #recoverUntilMs = 0
  #state: 'stopped' | 'starting' | 'running' | 'left' = 'stopped'
  #timer: NodeJS.Timeout | null = null

  constructor(components: LedgerComponents, init: LedgerInit) {
    super()
    if (components.privateKey.type !== 'Ed25519') throw new TypeError('a ledger signs with an Ed25519 key')
    const swarmBytes = Buffer.byteLength(init.swarm)
    if (swarmBytes === 0 || swarmBytes > WIRE_LIMITS.maxSwarmBytes) {
      throw new TypeError(`a swarm id has 1 to ${WIRE_LIMITS.maxSwarmBytes} bytes, not ${swarmBytes}`)
    }
    const { storeFile, ...rest } = init
    this.#key = keyOf(components.privateKey.publicKey.raw)
    this.author = peerIdFromPrivateKey(components.privateKey).toString()
    this.swarm = init.swarm
    this.#own = new OwnRecord({
      privateKey: components.privateKey,
      author: this.author,
      swarm: init.swarm,
      heatHalfLifeMs: init.heatHalfLifeMs ?? DEFAULTS.heatHalfLifeMs,
    })
    this.#clock = components.clock ?? Date.now
    this.#init = { ...DEFAULTS, ...rest }
    this.#store = new LedgerStore({ file: storeFile ?? null, persistIntervalMs: this.#init.persistIntervalMs })
    this.#schedule = new PublishSchedule(this.#init, {
      liveAuthors: () => this.#replica.liveAuthors,
      envelopeBytes: () => this.#ownRecord?.length ?? 0,
    })
    const reasons = [...HARMLESS_REASONS, ...FAULTY_REASONS].map((reason) => [reason, 0] as const)
    this.#rejected = Object.fromEntries(reasons) as Record<RejectionReason, number>
  }

  async start(): Promise<void> {
    if (this.#state !== 'stopped') return
    this.#state = 'starting'
    await this.#load(this.#clock())
    const now = this.#clock()
    this.#state = 'running'
    this.#recoverUntilMs = this.#ownRecord === null ? now + RECOVERY_MS : 0
    this.#beginEpoch(now)
    this.#arm()
  }

  async stop(): Promise<void> {
    if (this.#state === 'stopped') return
    this.#state = 'stopped'
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    await this.#own.settled()
    await this.flush().catch((error: Error) => this.#failed(error))
  }

  set<T extends Topic>(topic: T, value: TopicValues[T]): void {
    this.#stated(this.#own.set(topic, value, this.#clock()))
  }

  addRouted(model: string, delta: RoutedDelta): void {
    this.#stated(this.#own.addRouted(model, delta, this.#clock()))
  }

  own<T extends Topic>(topic: T): TopicValues[T] | null {
    return this.#own.get(topic)
  }

  async goodbye(): Promise<Uint8Array> {
    if (this.#state === 'running') this.#state = 'left'
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    const bytes = await this.#seal(EnvelopeKind.goodbye)
    this.emit('change', [this.author])
    return bytes
  }

  async receive(bytes: Uint8Array): Promise<ReceiveResult> {
    this.#counts.received++
    try {
      const result = await this.#accept(bytes, this.#clock())
      this.#counts[result]++
      return result
    } catch (error) {
      if (!(error instanceof RejectedRecordError)) throw error
      this.#rejected[error.reason]++
      return { rejected: error.reason }
    }
  }

  digest(): Uint8Array {
    return this.#replica.digest(this.#clock() < this.#recoverUntilMs ? this.#key : null)
  }

  missing(digest: Uint8Array): Uint8Array[] {
    return this.#replica.missing(digest, this.#clock())
  }

  view(): LedgerView {
    return this.#replica.view()
  }

  stats(): LedgerStats {
    return { ...this.#counts, rejected: { ...this.#rejected }, authors: this.#replica.size, liveAuthors: this.#replica.liveAuthors }
  }

  async flush(): Promise<void> {
    await this.#store.save(() => {
      const now = this.#clock()
      const records: StoredRecord[] = this.#ownRecord === null ? [] : [{ bytes: this.#ownRecord, receivedMs: now }]
      for (const { envelope, receivedMs } of this.#replica.entries()) {
        if (envelope.bytes !== this.#ownRecord) records.push({ bytes: envelope.bytes, receivedMs })
      }
      return records
    })
  }

  async tick(): Promise<void> {
    const now = this.#clock()
    const left = this.#replica.expire(now)
    if (left.length > 0) {
      this.#store.touch()
      this.emit('change', left)
    }
    if (this.#state === 'running' && now >= this.#dueMs()) await this.#seal(EnvelopeKind.record)
    if (this.#store.isDue(now)) await this.flush()
  }

  #stated(isNew: boolean): void {
    if (!isNew || this.#state !== 'running') return
    this.#showOwn()
    this.emit('change', [this.author])
    this.#arm()
  }

  /** Infinity before anything was stated. */
  #dueMs(): number {
    if (this.#own.isEmpty) return Infinity
    return this.#own.seq === 0 ? 0 : this.#schedule.nextMs(this.#own.unpublished)
  }

  #arm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer)
    this.#timer = null
    if (this.#state !== 'running') return
    const waitMs = Math.min(MAX_TICK_MS, Math.max(0, this.#dueMs() - this.#clock()))
    this.#timer = setTimeout(() => {
      this.tick()
        .catch((error: Error) => this.#failed(error))
        .finally(() => this.#arm())
    }, waitMs)
  }

  #beginEpoch(now: number): void {
    this.#own.beginEpoch(now)
    if (this.#own.isEmpty) return
    this.#showOwn()
    this.emit('change', [this.author])
  }

  async #seal(kind: EnvelopeKind): Promise<Uint8Array> {
    const now = this.#clock()
    const envelope = decodeEnvelope(await this.#own.seal(kind, now, this.#schedule.publishing(now)))
    const { bytes } = envelope
    if (kind === EnvelopeKind.record) this.#ownRecord = bytes
    this.#putOwn(envelope, now)
    this.#counts.published++
    this.#store.touch()
    this.emit('publish', bytes)
    return bytes
  }

  #putOwn(envelope: Envelope, now: number): void {
    const isGoodbye = envelope.kind === EnvelopeKind.goodbye
    const record = isGoodbye ? NO_RECORD : { prints: new Map<string, string>(), topics: this.#own.all() }
    const keepUntilMs = envelope.createdMs + envelope.ttlMs + MAX_CLOCK_SKEW_MS
    // This node sees itself as long as it runs, even when it wakes from a sleep longer than its ttl.
    const liveUntilMs = isGoodbye ? 0 : Infinity
    this.#replica.put(this.#key, { author: this.author, envelope, record, receivedMs: now, liveUntilMs, keepUntilMs }, now)
    if (!isGoodbye) this.#showOwn()
  }

  #showOwn(): void {
    const now = this.#clock()
    this.#replica.show(this.author, { ...this.#own.all(), updatedAt: now, expiresAt: now + this.#schedule.ttlMs() })
  }

  async #accept(bytes: Uint8Array, receivedMs: number): Promise<'applied' | 'known'> {
    const envelope = parseEnvelope(bytes, this.swarm)
    const now = this.#clock()
    if (envelope.createdMs > now + MAX_CLOCK_SKEW_MS) throw new RejectedRecordError('future', 'made in the future')
    const keepUntilMs = envelope.createdMs + envelope.ttlMs + MAX_CLOCK_SKEW_MS
    if (now >= keepUntilMs) throw new RejectedRecordError('expired', 'its time is over')
    const key = keyOf(envelope.authorKey)
    if (key === this.#key) return await this.#acceptOwn(envelope)
    if (this.#replica.isKnown(key, envelope)) return 'known'
    await checkSignature(envelope)
    const previous = this.#replica.get(key)
    const author = previous?.author ?? authorOf(envelope)
    const record = readRecord(envelope, author, previous?.record ?? NO_RECORD)
    // Another copy, or a newer one, may have come while the signature was checked.
    if (this.#replica.isKnown(key, envelope)) return 'known'
    this.#replica.checkRoom(key, record, envelope.bytes.length)
    const liveUntilMs = record === NO_RECORD ? 0 : Math.min(receivedMs + envelope.ttlMs + this.#init.graceMs, keepUntilMs)
    this.#replica.put(key, { author, envelope, record, receivedMs, liveUntilMs, keepUntilMs }, now)
    this.#store.touch()
    this.emit('change', [author])
    return 'applied'
  }

  /** An own envelope that this process did not make comes from an earlier life: its counts go on, and its numbers are passed. */
  async #acceptOwn(envelope: Envelope): Promise<'applied' | 'known'> {
    const kept = this.#replica.get(this.#key)?.envelope
    if (kept !== undefined && Buffer.compare(kept.bytes, envelope.bytes) === 0) return 'known'
    if (envelope.epoch === this.#own.epoch && envelope.seq <= this.#own.seq)
      throw new RejectedRecordError('stale', 'made here, and outdated')
    await checkSignature(envelope)
    this.#restore(envelope)
    this.#recoverUntilMs = 0
    const now = this.#clock()
    // Not at once again: two processes with one key would drive each other's epochs on for ever.
    if (envelope.epoch >= this.#own.epoch && this.#state === 'running' && now >= this.#lastRecoveryMs + this.#init.heartbeatMs) {
      this.#lastRecoveryMs = now
      this.#own.passEpoch(envelope.epoch)
      this.#beginEpoch(now)
      this.#arm()
    }
    return 'applied'
  }

  /** Takes from an own record what was learned over time; the other topics say what is now, and are stated anew. */
  #restore(envelope: Envelope): void {
    const { routing, observed } = readRecord(envelope, this.author, NO_RECORD).topics
    if (observed !== null && this.own('observed') === null) this.set('observed', observed)
    if (routing !== null && routing.size > 0) this.set('routing', routing)
  }

  async #load(now: number): Promise<void> {
    try {
      const { records, damage } = await this.#store.load(now)
      if (damage !== null) this.#failed(damage)
      for (const record of records) await this.#loadOne(record, now)
    } catch (error) {
      this.#failed(error instanceof Error ? error : new Error(String(error)))
    }
  }

  async #loadOne({ bytes, receivedMs }: StoredRecord, now: number): Promise<void> {
    try {
      const envelope = parseEnvelope(bytes, this.swarm)
      if (keyOf(envelope.authorKey) !== this.#key) {
        // As live as it would be had this node not been away.
        await this.#accept(bytes, Math.min(receivedMs, now))
        return
      }
      await checkSignature(envelope)
      if (envelope.epoch <= now + MAX_CLOCK_SKEW_MS) this.#own.passEpoch(envelope.epoch)
      if (envelope.kind === EnvelopeKind.goodbye) return
      this.#ownRecord = envelope.bytes
      this.#restore(envelope)
    } catch (error) {
      if (!(error instanceof RejectedRecordError)) throw error
      // Others have merely run out while this node was away.
      if (isFaulty(error.reason)) this.#counts.storeFailures++
    }
  }

  #failed(error: Error): void {
    this.#counts.storeFailures++
    this.emit('failure', error)
  }
}

function keyOf(raw: Uint8Array): string {
  return Buffer.from(raw.buffer, raw.byteOffset, raw.length).toString('hex')
}
