import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bitmapOf } from '../../../crdt/index.ts'
import type { LedgerView } from '../../../crdt/index.ts'
import { ManualClock, createAuthor, seededRandom, snapshotOf } from '../../helpers/ledger.ts'
import type { TestAuthor } from '../../helpers/ledger.ts'

const NODES = 50
/** Nodes that each node gossips with. */
const LINKS = 4
const STEPS = 20
const STEP_MS = 15_000
/** Nodes that die, leave or come back in a step: a tenth over ten steps. */
const CHURN = 0.01
const LOSS = 0.2
/** A run takes some seconds; all of them are run by SKEIN_SEEDS=100. */
const SEEDS = Number(process.env['SKEIN_SEEDS'] ?? 1)
const SHAPE = { layers: 4, experts: 16 }

interface Node {
  author: TestAuthor
  isUp: boolean
  side: number
  readonly links: number[]
}

/** Fifty nodes that gossip along their links as far as the partition lets them, lose messages, die, leave and return. */
class Network {
  readonly nodes: Node[] = []
  readonly clock = new ManualClock()
  readonly random: () => number
  receives = 0

  constructor(seed: number) {
    this.random = seededRandom(seed)
  }

  below(n: number): number {
    return Math.floor(this.random() * n)
  }

  async start(): Promise<void> {
    for (let n = 0; n < NODES; n++) {
      this.nodes.push({ author: await createAuthor(n, this.clock), isUp: true, side: 0, links: [] })
    }
    for (let n = 0; n < NODES; n++) {
      // A ring, so that the network is one, and some links across.
      for (const other of [(n + 1) % NODES, ...Array.from({ length: LINKS / 2 - 1 }, () => this.below(NODES))]) {
        if (other === n) continue
        this.nodes[n]!.links.push(other)
        this.nodes[other]!.links.push(n)
      }
    }
  }

  /** What the nodes publish when their time has come, each spread by whoever takes it as news. */
  async tick(options: { loss: number; spread: boolean }): Promise<void> {
    const flying: { readonly from: number; readonly envelope: Uint8Array }[] = []
    for (const [from, { author, isUp }] of this.nodes.entries()) {
      if (!isUp) continue
      const listener = (envelope: Uint8Array): void => void flying.push({ from, envelope })
      author.ledger.on('publish', listener)
      await author.ledger.tick()
      author.ledger.off('publish', listener)
    }
    if (options.spread) await this.spread(flying, options.loss)
  }

  async spread(flying: { readonly from: number; readonly envelope: Uint8Array }[], loss: number): Promise<void> {
    while (flying.length > 0) {
      // Any order: the next message is a random one of those under way.
      const [message] = flying.splice(this.below(flying.length), 1)
      const { from, envelope } = message!
      for (const to of this.nodes[from]!.links) {
        if (!this.linked(from, to) || this.random() < loss) continue
        this.receives++
        if ((await this.nodes[to]!.author.ledger.receive(envelope)) === 'applied') flying.push({ from: to, envelope })
      }
    }
  }

  linked(a: number, b: number): boolean {
    const [one, other] = [this.nodes[a]!, this.nodes[b]!]
    return one.isUp && other.isUp && one.side === other.side
  }

  async sync(a: number, b: number): Promise<void> {
    const [one, other] = [this.nodes[a]!.author.ledger, this.nodes[b]!.author.ledger]
    for (const envelope of one.missing(other.digest())) await other.receive(envelope)
    for (const envelope of other.missing(one.digest())) await one.receive(envelope)
  }

  async churn(n: number): Promise<void> {
    const node = this.nodes[n]!
    const { ledger } = node.author
    if (node.isUp) {
      node.isUp = false
      const last: Uint8Array[] = []
      if (this.below(2) === 0) last.push(await ledger.goodbye())
      await ledger.stop()
      node.isUp = true
      await this.spread(
        last.map((envelope) => ({ from: n, envelope })),
        LOSS,
      )
      node.isUp = false
      return
    }
    // Half of them come back as they were, the others have lost everything but their key.
    if (this.below(2) === 0) await ledger.start()
    else node.author = await createAuthor(n, this.clock)
    node.isUp = true
    node.author.ledger.set('profile', { name: `node ${n}`, version: '1', relayed: false })
  }

  async act(n: number): Promise<void> {
    const { ledger } = this.nodes[n]!.author
    const act = this.random()
    if (act < 0.4) ledger.set('holdings', new Map([['m', [bitmapOf([this.below(16), this.below(16)]), bitmapOf([this.below(16)])]]]))
    else if (act < 0.7) {
      const counts = Array.from({ length: SHAPE.layers * SHAPE.experts }, () => this.below(5))
      const pairs = Array.from({ length: SHAPE.layers }, () => new Map([[this.below(15) * 16 + 15, 1]]))
      ledger.addRouted('m', { ...SHAPE, counts, pairs })
    } else if (act < 0.85) ledger.set('service', { served: this.below(100), busy: 0, failed: 0, p50Us: 1, p95Us: 2 })
    else {
      const latency = { first: this.below(50), counts: Uint32Array.of(1) }
      const of = this.nodes[this.below(NODES)]!.author.ledger.author
      ledger.set(
        'observed',
        new Map([[of, { rttUs: 5, calls: 1, failures: this.below(3), notHeld: 0, auditsPassed: 0, auditsFailed: 0, latency }]]),
      )
    }
  }
}

async function run(seed: number): Promise<number> {
  const network = new Network(seed)
  await network.start()
  const { nodes, clock } = network
  for (const [n, { author }] of nodes.entries()) author.ledger.set('profile', { name: `node ${n}`, version: '1', relayed: false })
  for (let step = 0; step < STEPS; step++) {
    clock.nowMs += STEP_MS
    if (network.below(4) === 0) {
      const sides = 1 + network.below(4)
      for (const node of nodes) node.side = network.below(sides)
    }
    for (let n = 0; n < NODES; n++) {
      if (network.random() < CHURN || (!nodes[n]!.isUp && network.random() < 0.3)) await network.churn(n)
      if (nodes[n]!.isUp && network.random() < 0.1) await network.act(n)
    }
    await network.tick({ loss: LOSS, spread: true })
    for (let n = 0; n < 5; n++) {
      const [a, b] = [network.below(NODES), network.below(NODES)]
      if (network.linked(a, b)) await network.sync(a, b)
    }
  }
  // The network heals. What died stays dead; those records run out while the others are not heard, and then are again.
  for (const node of nodes) node.side = 0
  for (let step = 0; step < 8; step++) {
    clock.nowMs += 120_000
    await network.tick({ loss: 0, spread: false })
  }
  clock.nowMs += 120_000
  await network.tick({ loss: 0, spread: true })
  const up = nodes.flatMap((node, n) => (node.isUp ? [n] : []))
  for (let round = 0; round < 2; round++) for (const [i, n] of up.entries()) await network.sync(n, up[(i + 1) % up.length]!)
  for (const n of up) await nodes[n]!.author.ledger.tick()
  const views = up.map((n) => nodes[n]!.author.ledger.view())
  assert.deepEqual(new Set(views[0]!.authors.keys()), new Set(up.map((n) => nodes[n]!.author.ledger.author)))
  const expected = allOf(views[0]!, clock.nowMs)
  for (const view of views) assert.deepEqual(allOf(view, clock.nowMs), expected)
  for (const n of up) {
    const { rejected } = nodes[n]!.author.ledger.stats()
    assert.deepEqual({ ...rejected, stale: 0, expired: 0 }, Object.fromEntries(Object.keys(rejected).map((reason) => [reason, 0])))
  }
  await Promise.all(nodes.map(({ author }) => author.ledger.stop()))
  return network.receives
}

/** The records, and all that is merged from them. */
function allOf(view: LedgerView, nowMs: number): unknown {
  const { layers, experts } = SHAPE
  const holders = Array.from({ length: layers * experts }, (_, i) => view.holders('m', Math.floor(i / experts), i % experts))
  const peers = [...view.authors.keys()].map((peer) => view.reputation(peer))
  return [
    snapshotOf(view),
    holders,
    view.coverage('m', layers, experts),
    view.routed('m', layers, experts),
    view.heat('m', { layers, experts, nowMs }),
    peers,
  ]
}

test(`${NODES} nodes agree after partitions, losses and churn (${SEEDS} seeds)`, async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const first = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)
  const seeds = process.env['SEED'] === undefined ? SEEDS : 1
  t.diagnostic(`SEED=${first} and the ${seeds - 1} after it`)
  let receives = 0
  for (let seed = first; seed < first + seeds; seed++) {
    try {
      receives += await run(seed)
    } catch (error) {
      throw new Error(`SEED=${seed}`, { cause: error })
    }
  }
  t.diagnostic(`${receives} envelopes received`)
})
