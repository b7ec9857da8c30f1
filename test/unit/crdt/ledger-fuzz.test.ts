import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { LIMITS, bitmapOf, createLedger } from '../../../crdt/index.ts'
import type { Ledger } from '../../../crdt/index.ts'
import { TOPICS } from '../../../crdt/schema.ts'
import type { Topic } from '../../../crdt/schema.ts'
import { encodeTopic } from '../../../crdt/topic-codec.ts'
import { decodeEnvelope } from '../../../protocols/ledger/messages.ts'
import {
  ManualClock,
  START_MS,
  createAuthor,
  envelopeOf,
  keyNumber,
  peerOf,
  published,
  seededRandom,
  updateOf,
} from '../../helpers/ledger.ts'
import type { TestAuthor } from '../../helpers/ledger.ts'

/** A run of a million takes some minutes: SKEIN_FUZZ=1000000. */
const ENVELOPES = Number(process.env['SKEIN_FUZZ'] ?? 5_000)
const AUTHORS = 8
/** Heap that may be in use more at the end than after a tenth of the run. */
const MAX_GROWTH_BYTES = 16 * 1024 * 1024

/** Someone who signs what he likes. */
interface Attacker extends TestAuthor {
  readonly peer: string
  readonly topics: readonly { readonly topic: Topic; readonly bytes: Uint8Array }[]
  envelope: Uint8Array
}

/** A started ledger whose record has every topic, packed both ways. */
async function createAttacker(n: number, clock: ManualClock): Promise<Attacker> {
  const author = await createAuthor(n, clock)
  const { ledger } = author
  const peer = peerOf(author.privateKey)
  ledger.set('profile', { name: `attacker ${n}`, version: '1', relayed: false, budgetBytes: 1e9 })
  ledger.set('holdings', new Map([['m', [bitmapOf([n, 9]), bitmapOf([3])]]]))
  ledger.set('leaving', new Map([['m', [bitmapOf([9])]]]))
  ledger.addRouted('m', { layers: 4, experts: 16, counts: Array.from({ length: 64 }, (_, i) => i * n), pairs: [new Map([[1, 5]])] })
  const latency = { first: 40, counts: Uint32Array.of(n + 1, 0, 7) }
  ledger.set('service', { served: n, busy: 0, failed: 0, p50Us: 5, p95Us: 9, latency })
  ledger.set('observed', new Map([[peer, { rttUs: 1, calls: 2, failures: 3, notHeld: 4, auditsPassed: 5, auditsFailed: 6, latency }]]))
  const topics = TOPICS.map((topic) => ({ topic, bytes: encodeTopic(topic, ledger.own(topic)!) }))
  return { ...author, peer, topics, envelope: await published(ledger) }
}

class Mutator {
  readonly #random: () => number

  constructor(random: () => number) {
    this.#random = random
  }

  below(n: number): number {
    return Math.floor(this.#random() * n)
  }

  bytes(source: Uint8Array, other: Uint8Array): Uint8Array {
    const at = this.below(source.length)
    const copy = Uint8Array.from(source)
    switch (this.below(8)) {
      case 0:
        copy[at]! ^= 1 << this.below(8)
        return copy
      case 1:
        return copy.subarray(0, at)
      case 2:
        return Buffer.concat([copy, other.subarray(0, this.below(other.length))])
      case 3:
        return Buffer.concat([copy.subarray(0, at), other.subarray(this.below(other.length))])
      case 4:
        return copy.fill([0, 0x7f, 0x80, 0xff][this.below(4)]!, at, at + 1 + this.below(8))
      case 5:
        for (let n = this.below(12); n >= 0; n--) copy[this.below(copy.length)] = this.below(256)
        return copy
      case 6:
        return Buffer.concat([copy.subarray(0, at), copy.subarray(at + 1 + this.below(16))])
      default:
        return Buffer.concat([copy.subarray(0, at), Buffer.alloc(1 + this.below(40), this.below(256)), copy.subarray(at)])
    }
  }
}

/** What an attacker sends: bytes without a signature, or a document or a topic that he signed. */
async function nextEnvelope(mutator: Mutator, attackers: readonly Attacker[], n: number): Promise<Uint8Array> {
  const attacker = attackers[mutator.below(AUTHORS)]!
  const other = attackers[mutator.below(AUTHORS)]!
  const kind = mutator.below(10)
  if (kind < 6) return mutator.bytes(attacker.envelope, other.envelope)
  const { epoch, update } = decodeEnvelope(attacker.envelope)
  const createdMs = START_MS + n
  if (kind < 8) return await envelopeOf(attacker.privateKey, { epoch, seq: n, createdMs, update: mutator.bytes(update, other.envelope) })
  const { topic, bytes } = attacker.topics[mutator.below(TOPICS.length)]!
  const mutated = mutator.bytes(bytes, other.topics[mutator.below(TOPICS.length)]!.bytes)
  return await envelopeOf(attacker.privateKey, { seq: n, createdMs, update: updateOf(attacker.peer, topic, Uint8Array.from(mutated)) })
}

/** Everything that a node asks of a view. */
function readAll(ledger: Ledger, attackers: readonly Attacker[], nowMs: number): void {
  const view = ledger.view()
  const { rates, tokens, pairs } = view.heat('m', { layers: 4, experts: 16, nowMs })
  for (const value of [...rates, ...tokens, ...pairs.map(({ rate }) => rate)]) assert.ok(Number.isFinite(value) && value >= 0)
  assert.ok(view.coverage('m', 4, 16).covered <= 64)
  for (const { peer } of attackers) {
    const { badShare, rttUs } = view.reputation(peer)
    assert.ok(badShare >= 0 && badShare <= 1 && (rttUs === null || rttUs <= LIMITS.maxRttUs))
  }
}

test(
  `${ENVELOPES} mutated envelopes are refused or are what their author signed, and leave nothing behind`,
  { timeout: 7_200_000 },
  async (t) => {
    t.mock.timers.enable({ apis: ['setTimeout'] })
    const seed = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)
    t.diagnostic(`SEED=${seed}`)
    setFlagsFromString('--expose-gc')
    const collect = runInNewContext('gc') as () => void
    const clock = new ManualClock()
    const mutator = new Mutator(seededRandom(seed))
    const attackers: Attacker[] = []
    for (let n = 0; n < AUTHORS; n++) attackers.push(await createAttacker(n, clock))
    const victim = createLedger({ privateKey: await keyNumber(99), clock: clock.read }, { swarm: 'test' })
    await victim.start()
    let [refused, applied, heapBefore] = [0, 0, 0]
    for (let n = 1; n <= ENVELOPES; n++) {
      // The attackers' clocks go on, and so does the victim's.
      if (n % 1_000 === 0) clock.nowMs = START_MS + n
      const result = await victim.receive(await nextEnvelope(mutator, attackers, n))
      if (typeof result === 'object') refused++
      else applied++
      if (n % 1_000 === 0) {
        await victim.tick()
        readAll(victim, attackers, clock.nowMs)
      }
      if (n === Math.ceil(ENVELOPES / 10)) {
        collect()
        heapBefore = process.memoryUsage().heapUsed
      }
    }
    collect()
    const grown = process.memoryUsage().heapUsed - heapBefore
    const { received, rejected, authors } = victim.stats()
    t.diagnostic(`${refused} refused ${JSON.stringify(rejected)}, ${applied} taken, heap grown by ${Math.round(grown / 1024)} KiB`)
    assert.equal(received, ENVELOPES)
    assert.equal(
      Object.values(rejected).reduce((sum, count) => sum + count, 0),
      refused,
    )
    assert.ok(refused > 0.8 * ENVELOPES && authors <= AUTHORS)
    assert.ok(grown < MAX_GROWTH_BYTES, `${grown} bytes`)
    await Promise.all([victim.stop(), ...attackers.map(({ ledger }) => ledger.stop())])
  },
)
