import type { PrivateKey } from '@libp2p/interface'
import { EnvelopeKind } from '../protocols/ledger/messages.ts'
import { LIMITS as WIRE_LIMITS } from '../protocols/ledger/protocol.ts'
import { LimitExceededError } from '../protocols/wire/errors.ts'
import { AuthorDocument } from './author-document.ts'
import { MAX_CLOCK_SKEW_MS } from './defaults.ts'
import { OwnRouting } from './own-routing.ts'
import type { RoutedDelta } from './own-routing.ts'
import { NO_TOPICS, sealEnvelope } from './record.ts'
import type { TopicRecord } from './record.ts'
import type { Routing, Topic, TopicValues } from './schema.ts'
import { decodeTopic, encodeTopic } from './topic-codec.ts'

export interface OwnRecordInit {
  readonly privateKey: PrivateKey
  readonly author: string
  readonly swarm: string
  readonly heatHalfLifeMs: number
}

/** Of an envelope, what is not topics: header, signature and Yjs' own bytes. */
const ENVELOPE_OVERHEAD_BYTES = 2048

/** What this node states about itself: its topics, its document of this epoch, and the numbering of its envelopes. */
export class OwnRecord {
  readonly #init: OwnRecordInit
  readonly #topics = new Map<Topic, { readonly value: TopicValues[Topic]; readonly bytes: Uint8Array }>()
  readonly #unpublished = new Set<Topic>()
  readonly #routing: OwnRouting
  #document: AuthorDocument
  #epoch = 0
  #seq = 0
  #longestTtlMs = 0
  /** Envelopes are made one after the other, since signing may take its time. */
  #sealing: Promise<unknown> = Promise.resolve()

  constructor(init: OwnRecordInit) {
    this.#init = init
    this.#document = new AuthorDocument(init.author, 0)
    this.#routing = new OwnRouting(init.heatHalfLifeMs)
  }

  get epoch(): number {
    return this.#epoch
  }

  /** Envelopes made in this epoch. */
  get seq(): number {
    return this.#seq
  }

  get isEmpty(): boolean {
    return this.#topics.size === 0
  }

  /** Topics that changed since the last envelope. */
  get unpublished(): ReadonlySet<Topic> {
    return this.#unpublished
  }

  /** Whether the topic changed; routing is joined with what it was. Throws `InvalidMessageError` or `LimitExceededError` for what peers would refuse. */
  set<T extends Topic>(topic: T, value: TopicValues[T], nowMs: number): boolean {
    if (topic !== 'routing') return this.#put(topic, value)
    // Refused as a whole before any of it counts.
    encodeTopic(topic, value)
    this.#routing.join(value as Routing, nowMs)
    return this.#put('routing', this.#routing.value(nowMs))
  }

  /** Whether it changed what is stated. Throws as {@link set}. */
  addRouted(model: string, delta: RoutedDelta, nowMs: number): boolean {
    const { layers, experts, counts } = delta
    encodeTopic('routing', new Map([[model, { layers, experts, counts }]]))
    this.#routing.add(model, delta, nowMs)
    return this.#put('routing', this.#routing.value(nowMs))
  }

  #put<T extends Topic>(topic: T, value: TopicValues[T]): boolean {
    const bytes = encodeTopic(topic, value)
    const before = this.#topics.get(topic)
    if (before !== undefined && Buffer.compare(before.bytes, bytes) === 0) return false
    let total = bytes.length + ENVELOPE_OVERHEAD_BYTES
    for (const [other, { bytes: packed }] of this.#topics) if (other !== topic) total += packed.length
    if (total > WIRE_LIMITS.maxEnvelopeBytes) {
      throw new LimitExceededError(`all topics pack to ${total} bytes, ${WIRE_LIMITS.maxEnvelopeBytes} are allowed: state fewer models`)
    }
    // As peers read it: in their order, and not the caller's to change.
    this.#topics.set(topic, { value: decodeTopic(topic, bytes)!, bytes })
    this.#unpublished.add(topic)
    return true
  }

  get<T extends Topic>(topic: T): TopicValues[T] | null {
    return (this.#topics.get(topic)?.value as TopicValues[T] | undefined) ?? null
  }

  all(): TopicRecord {
    return { ...NO_TOPICS, ...Object.fromEntries([...this.#topics].map(([topic, { value }]) => [topic, value])) }
  }

  /** The next epoch will be later than this one of an earlier life. */
  passEpoch(epoch: number): void {
    this.#epoch = Math.max(this.#epoch, epoch)
  }

  /** A new document, numbered by the clock: whatever an earlier life wrote last, nothing of this one can be mistaken for it. */
  beginEpoch(nowMs: number): void {
    // An epoch from a future that peers refuse must not be followed: the clock was wrong then, or is now.
    const follows = this.#epoch >= nowMs && this.#epoch <= nowMs + MAX_CLOCK_SKEW_MS
    this.#epoch = follows ? this.#epoch + 1 : nowMs
    this.#seq = 0
    this.#document = new AuthorDocument(this.#init.author, this.#epoch)
    for (const topic of this.#topics.keys()) this.#unpublished.add(topic)
  }

  /** The next envelope, signed. */
  seal(kind: EnvelopeKind, nowMs: number, ttlMs: number): Promise<Uint8Array> {
    const next = this.#sealing.catch(() => {}).then(() => this.#sealNow(kind, nowMs, ttlMs))
    this.#sealing = next
    return next
  }

  /** Resolves once no envelope is being made. */
  async settled(): Promise<void> {
    await this.#sealing.catch(() => {})
  }

  async #sealNow(kind: EnvelopeKind, nowMs: number, ttlMs: number): Promise<Uint8Array> {
    const isGoodbye = kind === EnvelopeKind.goodbye
    if (this.#epoch === 0 || this.#epoch > nowMs + MAX_CLOCK_SKEW_MS) this.beginEpoch(nowMs)
    this.#longestTtlMs = Math.max(this.#longestTtlMs, ttlMs)
    if (!isGoodbye) {
      for (const topic of this.#unpublished) this.#document.set(topic, this.#topics.get(topic)!.bytes)
      this.#unpublished.clear()
    }
    this.#seq++
    return await sealEnvelope(this.#init.privateKey, {
      kind,
      epoch: this.#epoch,
      seq: this.#seq,
      createdMs: Math.max(nowMs, this.#epoch),
      // A goodbye outlives every record before it, so that none of them can be brought back.
      ttlMs: isGoodbye ? this.#longestTtlMs : ttlMs,
      swarm: this.#init.swarm,
      update: isGoodbye ? new Uint8Array() : this.#document.encode(),
    })
  }
}
