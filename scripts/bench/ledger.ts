/** What the ledger costs: one author's document after many updates, a thousand authors' memory and traffic. */
import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { createLedger } from '../../crdt/index.ts'
import type { Ledger } from '../../crdt/index.ts'
import { DEFAULTS } from '../../crdt/defaults.ts'
import { PublishSchedule } from '../../crdt/publish-schedule.ts'
import { SYNC_AUTHOR_MS } from '../../crdt/ledger-replication.ts'
import { benchMain, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { figure } from './figures.ts'
import type { Figure } from './figures.ts'
import { LedgerSwarm, SHAPE, benchLedger, readHeat, routeOne, stateAll } from './ledger-swarm.ts'

const MAX_DOCUMENT_BYTES = 4 * 1024
const MAX_STORE_BYTES = 1024 * 1024
const MAX_MEMORY_MB = 100
const MAX_TRAFFIC_BYTES = 2 * 1024
/** One author in so many drives queries; the others only host. */
const DRIVER_ONE_IN = 10
const NODES = 20
/** One update in so many is of routing, whose packing takes longer than everything else. */
const ROUTED_ONE_IN = 50
const IDLE_MS = 10_000
/** Between two envelopes of a measurement, so that each has spread before the next. */
const SPACING_MS = 250
const ENVELOPES = 80

type Flag = 'updates' | 'authors'

export const ledgerBench: Bench<Flag> = {
  name: 'ledger',
  defaults: { updates: '100000', authors: '1000' },

  async run({ workspace, flags }) {
    const updates = wholeNumber(flags.updates, 'updates', 1)
    const authors = wholeNumber(flags.authors, 'authors', 2)
    return [...(await oneAuthor(updates, join(workspace.dir, 'ledger.bin'))), ...(await manyAuthors(authors)), ...(await traffic(authors))]
  },
}

/** All topics in turn, every change an envelope of its own. */
async function oneAuthor(updates: number, storeFile: string): Promise<Figure[]> {
  let nowMs = Date.now()
  const ledger = createLedger({ privateKey: await generateKeyPair('Ed25519'), clock: () => nowMs }, { swarm: 'bench', storeFile })
  await ledger.start()
  const sizes: number[] = []
  ledger.on('publish', (envelope) => sizes.push(envelope.length))
  stateAll(ledger, 1, true)
  const { layers, experts } = SHAPE
  const counts = new Float64Array(layers * experts)
  const startedAt = performance.now()
  for (let n = 0; n < updates; n++) {
    if (n % 5 === 3) ledger.set('profile', { name: `node-${n}`, version: '0.1.0', relayed: false })
    else if (n % 5 === 1) ledger.set('service', { served: n, busy: 0, failed: 0, p50Us: n, p95Us: 2 * n })
    else if (n % ROUTED_ONE_IN !== 0) stateAll(ledger, n % 50, false)
    else {
      counts.fill(0)
      for (let i = 0; i < 128; i++) counts[(n * 31 + i * 7) % counts.length]!++
      ledger.addRouted('bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku', { layers, experts, counts })
    }
    nowMs += DEFAULTS.heartbeatMs
    await ledger.tick()
  }
  const perUpdateUs = ((performance.now() - startedAt) * 1000) / updates
  await ledger.flush()
  const { size } = await stat(storeFile)
  await ledger.stop()
  return [
    figure(`one author, ${updates} updates: its envelope at the end`, 'B', sizes.slice(-100), { atMost: MAX_DOCUMENT_BYTES }),
    figure('its store file', 'B', [size], { atMost: MAX_STORE_BYTES }),
    figure('an update, signed', 'µs', [perUpdateUs]),
  ]
}

async function envelopesOf(count: number): Promise<Uint8Array[]> {
  const envelopes: Uint8Array[] = []
  for (let n = 0; n < count; n++) {
    const ledger = await benchLedger(await generateKeyPair('Ed25519'), Date.now)
    ledger.on('publish', (envelope) => envelopes.push(envelope))
    stateAll(ledger, n, n % DRIVER_ONE_IN === 0)
    await ledger.tick()
    await ledger.stop()
  }
  return envelopes
}

async function manyAuthors(authors: number): Promise<Figure[]> {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const envelopes = await envelopesOf(authors)
  collect()
  const used = (): number => {
    const { heapUsed, external } = process.memoryUsage()
    return heapUsed + external
  }
  const before = used()
  const ledger = await benchLedger(await generateKeyPair('Ed25519'), Date.now)
  const times: number[] = []
  for (const envelope of envelopes) {
    const startedAt = performance.now()
    // Own memory, as what comes from the network has.
    await ledger.receive(Uint8Array.from(envelope))
    times.push((performance.now() - startedAt) * 1000)
  }
  const heatMs = timed(() => readHeat(ledger))
  const heats = Array.from({ length: 20 }, (_, n) => {
    routeOne(ledger, n)
    return timed(() => readHeat(ledger))
  })
  const views = Array.from({ length: 20 }, (_, n) =>
    timed(() => {
      ledger.set('service', { served: n, busy: 0, failed: 0, p50Us: 1, p95Us: 1 })
      ledger.view()
    }),
  )
  collect()
  const grown = (used() - before) / 2 ** 20
  const { liveAuthors } = ledger.stats()
  if (liveAuthors < authors) throw new Error(`only ${liveAuthors} of ${authors} authors are in the view`)
  await ledger.stop()
  return [
    figure(`${authors} authors, a tenth of them drivers: memory`, 'MB', [grown], { atMost: MAX_MEMORY_MB }),
    figure(
      'their envelopes',
      'B',
      envelopes.map((envelope) => envelope.length),
    ),
    figure('receiving one', 'µs', times),
    figure('a heat map made afresh', 'ms', [heatMs]),
    figure("the heat map after one author's change", 'ms', heats),
    figure('a view after one change', 'ms', views),
  ]
}

/** Bytes that envelopes of hosts and of drivers cost each node of a swarm, idle time left out, times how often they come; and syncs. */
async function traffic(authors: number): Promise<Figure[]> {
  const swarm = await LedgerSwarm.start(NODES)
  try {
    for (const { ledger } of swarm.nodes) stateAll(ledger, 0, false)
    await delay(3_000)
    const perNode = (bytes: number): number => bytes / NODES
    const idle = swarm.sentBytes
    await delay(IDLE_MS)
    const idlePerSecond = perNode(swarm.sentBytes - idle) / (IDLE_MS / 1000)
    const host = await envelopeCost(swarm, false, idlePerSecond)
    const driver = await envelopeCost(swarm, true, idlePerSecond)
    const sync = await syncCost(swarm, authors)
    const rateOf = (bytes: number): number => 1000 / intervalMs(authors, bytes)
    const drivers = authors / DRIVER_ONE_IN
    const gossip = (authors - drivers) * rateOf(host.bytes) * host.perNode + drivers * rateOf(driver.bytes) * driver.perNode
    // Every node begins a sync per interval and answers one.
    const syncs = (2 * sync) / ((authors * SYNC_AUTHOR_MS) / 1000)
    return [
      figure(`${NODES} nodes: bytes that gossip sends per byte of a host's envelope`, '×', [host.perNode / host.bytes]),
      figure("the same of a driver's", '×', [driver.perNode / driver.bytes]),
      figure(`${authors} authors: time between two envelopes of a host`, 's', [intervalMs(authors, host.bytes) / 1000]),
      figure('the same of a driver', 's', [intervalMs(authors, driver.bytes) / 1000]),
      figure(`${authors} authors: gossip, each node sends and receives`, 'B/s', [gossip]),
      figure('syncs, each node sends and receives', 'B/s', [syncs]),
      figure('idle, each node sends and receives', 'B/s', [idlePerSecond]),
      figure('all of it, sent and received together', 'B/s', [2 * (gossip + syncs + idlePerSecond)], { atMost: MAX_TRAFFIC_BYTES }),
    ]
  } finally {
    await swarm.stop()
  }
}

function intervalMs(authors: number, bytes: number): number {
  const schedule = new PublishSchedule(DEFAULTS, { liveAuthors: () => authors, envelopeBytes: () => bytes })
  schedule.publishing(0)
  return schedule.nextMs(['routing'])
}

/** Bytes of an envelope, and what each node sends because of it. */
async function envelopeCost(swarm: LedgerSwarm, isDriver: boolean, idlePerSecond: number): Promise<{ bytes: number; perNode: number }> {
  const before = swarm.sentBytes
  const startedAt = performance.now()
  let bytes = 0
  for (let n = 0; n < ENVELOPES; n++) {
    const node = swarm.nodes[n % NODES]!
    const [envelope] = await authorOnce(n, isDriver)
    bytes += envelope!.length
    await node.ledger.receive(envelope!)
    await node.libp2p.services.pubsub.publish(`/skein/ledger/1/bench`, envelope!)
    await delay(SPACING_MS)
  }
  // Ids of recent messages are told for some seconds.
  await delay(5_000)
  const heard = swarm.nodes.map(({ ledger }) => ledger.stats().authors)
  if (Math.min(...heard) < Math.max(...heard)) console.log(`gossip lost some: ${Math.min(...heard)} to ${Math.max(...heard)} authors known`)
  const seconds = (performance.now() - startedAt) / 1000
  return { bytes: bytes / ENVELOPES, perNode: ((swarm.sentBytes - before) / NODES - idlePerSecond * seconds) / ENVELOPES }
}

async function authorOnce(n: number, isDriver: boolean): Promise<Uint8Array[]> {
  const envelopes: Uint8Array[] = []
  const author: Ledger = await benchLedger(await generateKeyPair('Ed25519'), Date.now)
  author.on('publish', (envelope) => envelopes.push(envelope))
  stateAll(author, n, isDriver)
  await author.tick()
  await author.stop()
  return envelopes
}

/** Bytes that one side of a sync sends when both know all authors already. */
async function syncCost(swarm: LedgerSwarm, authors: number): Promise<number> {
  const [a, b] = swarm.nodes as [LedgerSwarm['nodes'][0], LedgerSwarm['nodes'][0]]
  for (const envelope of await envelopesOf(authors)) {
    await a.ledger.receive(envelope)
    await b.ledger.receive(envelope)
  }
  const before = swarm.sentBytes
  await a.replication.sync(b.libp2p.peerId)
  return (swarm.sentBytes - before) / 2
}

function timed(work: () => unknown): number {
  const startedAt = performance.now()
  work()
  return performance.now() - startedAt
}

if (import.meta.main) await benchMain(ledgerBench.name, [ledgerBench])
