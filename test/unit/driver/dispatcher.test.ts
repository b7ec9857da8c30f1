import assert from 'node:assert/strict'
import { setImmediate as turn } from 'node:timers/promises'
import { test } from 'node:test'
import { CancelScope } from '../../../node/driver/cancel-scope.ts'
import { Dispatcher } from '../../../node/driver/dispatcher.ts'
import type { DispatchContext, DispatcherComponents } from '../../../node/driver/dispatcher.ts'
import { Tally } from '../../../node/driver/tally.ts'
import type { Experts } from '../../../node/engine/engine.ts'
import { CostModel } from '../../../node/router/cost-model.ts'
import { NO_PRIOR } from '../../../node/router/host-estimate.ts'

const EXPERTS = { has: () => true } as unknown as Experts

function setUp() {
  const peers = ['me']
  const state = { own: EXPERTS as Experts | null, cached: 7 }
  const costs = new CostModel()
  const dispatcher = new Dispatcher({
    self: 'me',
    costs,
    holders: { candidates: () => peers.map((peer) => ({ peer, local: peer === 'me', holds: () => true })) },
    ownExperts: () => state.own,
    isCached: (_model: string, layer: number, expert: number) => layer === 1 && expert === state.cached,
  } as unknown as DispatcherComponents)
  const tally = new Tally({ wire: 'f16', combine: 'host', seed: 1 })
  const context: DispatchContext = { model: 'm', digest: '', priority: 0, exploreSeed: 0, tally, scope: new CancelScope() }
  return { dispatcher, context, tally, costs, peers, state }
}

test('passes go by themselves only where all experts are here and nobody else can be called', () => {
  const { dispatcher, context, peers, state } = setUp()
  assert.equal(dispatcher.soleExperts(context), EXPERTS)
  peers.push('other')
  assert.equal(dispatcher.soleExperts(context), null)
  peers.pop()
  state.own = null
  assert.equal(dispatcher.soleExperts(context), null)
})

test('layers that a pass went through count as calls of this node, and as its speed', () => {
  const { dispatcher, context, tally, costs } = setUp()
  dispatcher.ranHere(context, { layer: 1, experts: Int32Array.of(3, 7, 7, 2), computeUs: 1234 }, 2)
  dispatcher.ranHere(context, { layer: 2, experts: Int32Array.of(3, 7, 1, 2), computeUs: 1234 }, 2)
  const { hosts, calls, expertCache, bytes } = tally.report()
  assert.deepEqual(hosts, [{ peer: 'me', local: true, calls: 2, rows: 4, layers: [1, 2] }])
  assert.deepEqual(
    [calls, expertCache, bytes],
    [
      { local: 2, remote: 0, retried: 0 },
      { hits: 2, picks: 8 },
      { sent: 0, received: 0 },
    ],
  )
  assert.deepEqual([dispatcher.picks, dispatcher.cacheHits], [8, 2])
  assert.equal(costs.cost('me', true, NO_PRIOR).perPickUs, 1234 / 4)
})

test('what a host does after it has answered is not forgotten when the answer is noted', async () => {
  const costs = new CostModel()
  const answer = { status: 'ok', rowType: 'f16', rows: 1, width: 2, data: Float32Array.of(1, 2), queueUs: 5, computeUs: 50 }
  const dispatcher = new Dispatcher({
    self: 'me',
    costs,
    holders: { candidates: () => [{ peer: 'other', local: false, holds: () => true }] },
    links: { get: () => ({ start: () => ({ answer: Promise.resolve(answer), cancel: () => {} }) }) },
    priorOf: () => NO_PRIOR,
    tieSeed: 0,
  } as unknown as DispatcherComponents)
  const { context } = setUp()
  const picks = { pickRow: Uint16Array.of(0), pickExpert: Uint16Array.of(3), pickWeight: Float32Array.of(1) }
  const work = { layer: 0, rows: 1, width: 2, x: Float32Array.of(5, 6), picks, runs: [{ expert: 3, from: 0, to: 1 }] }
  const into = new Float32Array(2)
  costs.failed('other')
  await dispatcher.run(context, work, into)
  assert.deepEqual([...into], [1, 2])
  assert.equal(costs.backoffMs('other'), 0)
  costs.busy('other', 5000)
  await turn()
  assert.ok(costs.backoffMs('other') > 0)
  assert.equal(costs.counts('other').succeeded, 1)
})
