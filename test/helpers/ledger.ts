import { generateKeyPairFromSeed } from '@libp2p/crypto/keys'
import type { Ed25519PrivateKey } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import * as Y from 'yjs'
import { createLedger } from '../../crdt/index.ts'
import type { Ledger, LedgerInit, LedgerView } from '../../crdt/index.ts'
import { sealEnvelope } from '../../crdt/record.ts'
import { clientIdOf } from '../../crdt/schema.ts'
import type { EnvelopeFields } from '../../protocols/ledger/messages.ts'

/** 2026-01-01, where the tests' clocks begin. */
export const START_MS = 1_767_225_600_000

/** Uniform in [0, 1), the same for the same seed (mulberry32). */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let x = Math.imul(state ^ (state >>> 15), state | 1)
    x ^= x + Math.imul(x ^ (x >>> 7), x | 61)
    return ((x ^ (x >>> 14)) >>> 0) / 2 ** 32
  }
}

/** The key numbered `n`, always the same. */
export async function keyNumber(n: number): Promise<Ed25519PrivateKey> {
  const seed = new Uint8Array(32)
  new DataView(seed.buffer).setUint32(0, n, true)
  return await generateKeyPairFromSeed('Ed25519', seed)
}

/** A clock that stands still until it is told otherwise. */
export class ManualClock {
  nowMs = START_MS
  readonly read = (): number => this.nowMs
}

export interface TestAuthor {
  readonly privateKey: Ed25519PrivateKey
  readonly ledger: Ledger
}

/** A started ledger of author number `n`; the caller mocks or ignores its timer, and stops it. */
export async function createAuthor(n: number, clock: ManualClock, init: Partial<LedgerInit> = {}): Promise<TestAuthor> {
  const privateKey = await keyNumber(n)
  const ledger = createLedger({ privateKey, clock: clock.read }, { swarm: 'test', ...init })
  await ledger.start()
  return { privateKey, ledger }
}

export function peerOf(privateKey: Ed25519PrivateKey): string {
  return peerIdFromPrivateKey(privateKey).toString()
}

/** The own record that an author would gossip now. */
export async function published(ledger: Ledger): Promise<Uint8Array> {
  const envelopes: Uint8Array[] = []
  const listener = (envelope: Uint8Array): void => void envelopes.push(envelope)
  ledger.on('publish', listener)
  await ledger.tick()
  ledger.off('publish', listener)
  const last = envelopes.at(-1)
  if (last === undefined) throw new Error('the ledger published nothing: was nothing stated, or is it not due yet?')
  return last
}

/** An envelope with any field as the test wants it, signed by `privateKey`. */
export async function envelopeOf(privateKey: Ed25519PrivateKey, fields: Partial<EnvelopeFields>): Promise<Uint8Array> {
  const defaults = {
    kind: 0,
    epoch: START_MS,
    seq: 1,
    createdMs: START_MS,
    ttlMs: 30_000,
    swarm: 'test',
    update: new Uint8Array(),
  } as const
  return await sealEnvelope(privateKey, { ...defaults, ...fields })
}

/** A Yjs update with one value at `root`/`topic`, by default in the author's name. */
export function updateOf(author: string, topic: string, value: unknown, options: { root?: string; client?: number } = {}): Uint8Array {
  const doc = new Y.Doc()
  doc.clientID = options.client ?? clientIdOf(author, START_MS, topic)
  doc.getMap(options.root ?? 'skein').set(topic, value)
  return Y.encodeStateAsUpdate(doc)
}

/** Everything that two views can differ in, but for times of arrival. */
export function snapshotOf(view: LedgerView): unknown {
  return [...view.authors].map(([peer, { profile, holdings, routing, service, observed }]) => ({
    peer,
    profile,
    holdings: holdings && [...holdings].map(([model, layers]) => [model, layers.map((bitmap) => Buffer.from(bitmap).toString('hex'))]),
    routing:
      routing && [...routing].map(([model, { layers, experts, counts, heat }]) => [model, layers, experts, Array.from(counts), heat]),
    service,
    observed: observed && [...observed],
  }))
}
