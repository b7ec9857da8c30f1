/**
 * `node store-writer.ts <store file> <authors>`: a ledger that writes its store over and over until it is killed. Tells its parent first
 * what the store held, then each count that is surely in it.
 */
import { createLedger } from '../../crdt/index.ts'
import { DEFAULTS } from '../../crdt/defaults.ts'
import { EnvelopeKind } from '../../protocols/ledger/messages.ts'
import { clientIdOf } from '../../crdt/schema.ts'
import { encodeTopic } from '../../crdt/topic-codec.ts'
import * as Y from 'yjs'
import { START_MS, envelopeOf, keyNumber, peerOf } from './ledger.ts'

/** What the parent hears. */
export type WriterMessage =
  | { readonly kind: 'opened'; readonly authors: number; readonly failures: number; readonly counted: number }
  | { readonly kind: 'saved'; readonly counted: number }

const MODEL = 'model'
const LAYERS = 8
const EXPERTS = 32
const OWN_KEY = 1_000_000

async function main(file: string, authors: number): Promise<never> {
  const say = (message: WriterMessage): void => void process.send!(message)
  let nowMs = START_MS + 1_000
  const times = { heartbeatMs: 3_600_000, ttlMs: 3_600_000, persistIntervalMs: 3_600_000 }
  const components = { privateKey: await keyNumber(OWN_KEY), clock: () => nowMs }
  const ledger = createLedger(components, { swarm: 'test', storeFile: file, ...times })
  await ledger.start()
  const countOf = (): number => {
    const counts = ledger.own('routing')?.get(MODEL)?.counts
    return counts === undefined ? 0 : Array.from(counts).reduce((sum, count) => sum + count, 0)
  }
  say({ kind: 'opened', authors: ledger.stats().authors, failures: ledger.stats().storeFailures, counted: countOf() })
  for (let n = ledger.stats().authors; n < authors; n++) await ledger.receive(await recordOf(n))
  for (;;) {
    const counts = new Float64Array(LAYERS * EXPERTS)
    // Over all experts in turn: counts are stated to 11 bits, and these stay below.
    counts[countOf() % counts.length] = 1
    ledger.addRouted(MODEL, { layers: LAYERS, experts: EXPERTS, counts })
    // A changed profile is told at once, and the counts with it.
    ledger.set('profile', { name: String(countOf()), version: '1', relayed: false })
    nowMs += DEFAULTS.minPublishIntervalMs
    await ledger.tick()
    await ledger.flush()
    say({ kind: 'saved', counted: countOf() })
  }
}

/** The record of another author, some kilobytes long. */
async function recordOf(n: number): Promise<Uint8Array> {
  const privateKey = await keyNumber(n)
  const doc = new Y.Doc()
  doc.clientID = clientIdOf(peerOf(privateKey), START_MS, 'routing')
  const counts = Float64Array.from({ length: 32 * 64 }, (_, i) => (i * 7919 * (n + 1)) % 65_521)
  doc.getMap('skein').set('routing', encodeTopic('routing', new Map([[MODEL, { layers: 32, experts: 64, counts }]])))
  return await envelopeOf(privateKey, { kind: EnvelopeKind.record, ttlMs: 3_600_000, update: Y.encodeStateAsUpdate(doc) })
}

const [file, authors] = process.argv.slice(2)
if (import.meta.main) await main(file!, Number(authors))
