import assert from 'node:assert/strict'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { bitmapOf } from '../../../crdt/index.ts'
import { MergedView } from '../../../crdt/view.ts'
import type { DrivenModel } from '../../../node/driver/generation.ts'
import { Holders } from '../../../node/driver/holders.ts'
import { LinkKeeper } from '../../../node/driver/link-keeper.ts'
import type { LinkKeeperComponents } from '../../../node/driver/link-keeper.ts'
import { CostModel } from '../../../node/router/cost-model.ts'

/** A keeper of two hosts that are linked already; `latencyMs` says how long a call to each takes. */
function setUp(latencyMs: Record<string, () => number>) {
  let now = 0
  const costs = new CostModel(() => now)
  const calls: Record<string, number> = {}
  const record = { profile: null, leaving: null, routing: null, service: null, observed: null, holdings: new Map([['m', [bitmapOf([0])]]]) }
  const author = { ...record, updatedAt: 0, expiresAt: Infinity }
  const holders = new Holders({
    self: 'self',
    view: () => new MergedView(new Map(Object.keys(latencyMs).map((peer) => [peer, author]))),
    holdsLocally: () => false,
    isLinked: () => true,
    linkChanges: () => 0,
  })
  const clientOf = (peer: string) => ({
    call: async () => {
      calls[peer] = (calls[peer] ?? 0) + 1
      await delay(latencyMs[peer]!())
      return { queueUs: 0, computeUs: 0 }
    },
  })
  const clients = new Map(Object.keys(latencyMs).map((peer) => [peer, clientOf(peer)]))
  let better = ''
  const links = {
    size: 2,
    get: (peer: string) => clients.get(peer),
    isOpening: () => false,
    canImprove: (peer: string) => peer === better,
    improve: async (peer: string) => {
      better = ''
      clients.set(peer, clientOf(peer))
      return true
    },
  }
  const model = { id: 'm', digest: '00', manifest: { config: { layers: 1, experts: 1, hiddenSize: 4 } } }
  const keeper = new LinkKeeper(
    { links, holders, costs, records: {}, announcers: () => [], onUnreachable: () => {}, log: () => {} } as unknown as LinkKeeperComponents,
    [model as unknown as DrivenModel],
  )
  /** The peer is connected in a better way now. */
  const improve = (peer: string): Promise<void> => {
    better = peer
    return keeper.connected(peer)
  }
  return { keeper, costs, calls, improve, pass: (ms: number) => (now += ms) }
}

test('a host that seemed slow while it started is probed again soon, one that is as good as the others is not', async () => {
  let slowMs = 80
  const { keeper, costs, calls, pass } = setUp({ ada: () => 1, zoe: () => slowMs })
  await keeper.tick()
  assert.ok(costs.counts('zoe').overheadUs! > 5 * costs.counts('ada').overheadUs!)
  const before = { ...calls }
  slowMs = 1
  pass(1_000)
  await keeper.tick()
  assert.equal(calls['ada'], before['ada'])
  assert.ok(calls['zoe']! > before['zoe']!)
  assert.ok(costs.counts('zoe').overheadUs! < 40_000)
})

test('a host that stays slow is probed less and less often', async () => {
  const { keeper, calls, pass } = setUp({ ada: () => 1, zoe: () => 60 })
  await keeper.tick()
  const probesAfter: number[] = []
  let last = calls['zoe']!
  for (let seconds = 1; seconds <= 12; seconds++) {
    pass(1_000)
    await keeper.tick()
    if (calls['zoe']! > last) probesAfter.push(seconds)
    last = calls['zoe']!
  }
  assert.ok(probesAfter.length >= 2 && probesAfter.length <= 4, `probed after ${probesAfter.join(', ')} s`)
})

test('a better link is measured at once, also while the old one still is, and by its own calls alone', async () => {
  let farMs = 400
  const { keeper, costs, improve } = setUp({ ada: () => 50, zoe: () => farMs })
  const first = keeper.tick()
  await delay(100)
  farMs = 1
  await improve('zoe')
  assert.ok(costs.counts('zoe').overheadUs! < 30_000, `${costs.counts('zoe').overheadUs}`)
  await first
  assert.ok(costs.counts('zoe').overheadUs! < 30_000, `${costs.counts('zoe').overheadUs}`)
})

test('a host that fails a query while it is probed stays backed off, however well it answers the probes', async () => {
  const { keeper, costs, calls } = setUp({
    ada: () => {
      if (calls['ada'] === 2) costs.failed('ada')
      return 1
    },
  })
  await keeper.tick()
  assert.ok(calls['ada']! > 2)
  assert.equal(costs.backoffMs('ada'), 15_000)
})
