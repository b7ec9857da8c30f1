import assert from 'node:assert/strict'
import { test } from 'node:test'
import { bitmapOf } from '../../../crdt/index.ts'
import { ManualClock, createAuthor, seededRandom, snapshotOf } from '../../helpers/ledger.ts'

const SEEDS = 100
const AUTHORS = 5
const STEPS = 60
const STEP_MS = 700
/** Within the ttl's half, so that nobody runs out before the network heals. */
const HEAL_STEPS = 4

/** A network that loses, repeats, delays and reorders envelopes, and falls apart now and then. */
async function run(seed: number): Promise<void> {
  const random = seededRandom(seed)
  const below = (n: number): number => Math.floor(random() * n)
  const clock = new ManualClock()
  const authors = await Promise.all(Array.from({ length: AUTHORS }, (_, n) => createAuthor(n, clock)))
  const flying: { readonly to: number; readonly envelope: Uint8Array }[] = []
  let side = authors.map(() => 0)
  const linked = (a: number, b: number): boolean => side[a] === side[b]
  for (const [from, { ledger }] of authors.entries()) {
    ledger.on('publish', (envelope) => {
      for (let to = 0; to < AUTHORS; to++) {
        if (to === from || !linked(from, to)) continue
        for (let copies = below(4); copies > 0; copies--) flying.push({ to, envelope })
      }
    })
  }
  const sync = async (a: number, b: number): Promise<void> => {
    const [one, other] = [authors[a]!.ledger, authors[b]!.ledger]
    for (const envelope of one.missing(other.digest())) await other.receive(envelope)
    for (const envelope of other.missing(one.digest())) await one.receive(envelope)
  }
  for (let step = 0; step < STEPS; step++) {
    clock.nowMs += STEP_MS
    if (below(8) === 0) side = authors.map(() => below(2))
    const { ledger } = authors[below(AUTHORS)]!
    const model = `m${below(2)}`
    const act = random()
    if (act < 0.35) ledger.set('holdings', new Map([[model, [bitmapOf([below(8), below(8)]), bitmapOf([below(8)])]]]))
    else if (act < 0.7) ledger.addRouted(model, { layers: 2, experts: 4, counts: Array.from({ length: 8 }, () => below(5)) })
    else if (act < 0.85) ledger.set('service', { served: step, busy: 0, failed: 0, p50Us: 1, p95Us: 2 })
    else if (act < 0.88) {
      if (below(2) === 0) await ledger.goodbye()
      await ledger.stop()
      await ledger.start()
    }
    for (const author of authors) await author.ledger.tick()
    for (let n = below(8); n > 0 && flying.length > 0; n--) {
      const [message] = flying.splice(below(flying.length), 1)
      await authors[message!.to]!.ledger.receive(message!.envelope)
    }
    const [a, b] = [below(AUTHORS), below(AUTHORS)]
    if (below(10) === 0 && linked(a, b)) await sync(a, b)
  }
  side = authors.map(() => 0)
  for (let step = 0; step < HEAL_STEPS; step++) {
    clock.nowMs += 5_000
    for (const { ledger } of authors) await ledger.tick()
  }
  for (let a = 0; a < AUTHORS; a++) await sync(a, (a + 1) % AUTHORS)
  for (let a = 0; a < AUTHORS; a++) await sync(a, (a + 1) % AUTHORS)
  for (const { to, envelope } of flying) await authors[to]!.ledger.receive(envelope)
  const views = authors.map(({ ledger }) => ledger.view())
  for (const view of views) {
    assert.deepEqual(snapshotOf(view), snapshotOf(views[0]!))
    for (const model of ['m0', 'm1']) {
      assert.deepEqual(view.routed(model, 2, 4), views[0]!.routed(model, 2, 4))
      for (let expert = 0; expert < 8; expert++) assert.deepEqual(view.holders(model, 0, expert), views[0]!.holders(model, 0, expert))
      // What a view takes over from its predecessors is what it would find afresh.
      const fresh = new Float64Array(8)
      for (const { routing } of view.authors.values()) addTo(fresh, routing?.get(model)?.counts ?? [])
      assert.deepEqual(view.routed(model, 2, 4), fresh)
    }
  }
  const { rejected } = authors[0]!.ledger.stats()
  assert.deepEqual({ ...rejected, stale: 0, expired: 0 }, Object.fromEntries(Object.keys(rejected).map((reason) => [reason, 0])))
  await Promise.all(authors.map(({ ledger }) => ledger.stop()))
}

function addTo(into: Float64Array, counts: ArrayLike<number>): void {
  for (let i = 0; i < counts.length; i++) into[i]! += counts[i]!
}

test(`${AUTHORS} authors agree after drops, duplicates, reordering, partitions and restarts (${SEEDS} seeds)`, async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const first = Number(process.env['SEED'] ?? Date.now() % 2 ** 31)
  const seeds = process.env['SEED'] === undefined ? SEEDS : 1
  t.diagnostic(`SEED=${first} and the ${seeds - 1} after it`)
  for (let seed = first; seed < first + seeds; seed++) {
    try {
      await run(seed)
    } catch (error) {
      throw new Error(`SEED=${seed}`, { cause: error })
    }
  }
})
