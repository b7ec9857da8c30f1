import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { bitmapOf } from '../../../crdt/index.ts'
import type { AuthorView } from '../../../crdt/index.ts'
import { MergedView } from '../../../crdt/view.ts'
import { Holders } from '../../../node/driver/holders.ts'

const NOW = Date.UTC(2026, 10, 22)

/** A ledger whose authors hold the given experts of layer 0 (or layers) of model `m`, links to all, and what of it can be called. */
function setUp(t: TestContext, init: { own?: readonly number[]; peers?: Readonly<Record<string, readonly number[]>> } = {}) {
  t.mock.timers.enable({ apis: ['Date'], now: NOW })
  const authors = new Map<string, AuthorView>()
  const linked = new Set<string>()
  /** What a peer states, which renewing does not change. */
  const announce = (peer: string, experts: readonly number[], model = 'm'): void => {
    const record = {
      profile: null,
      leaving: null,
      routing: null,
      service: null,
      observed: null,
      holdings: new Map([[model, [bitmapOf(experts)]]]),
    }
    authors.set(peer, { ...record, updatedAt: Date.now(), expiresAt: Date.now() + 30_000 })
    linked.add(peer)
  }
  const renew = (peer: string): void => void authors.set(peer, { ...authors.get(peer)!, updatedAt: Date.now() })
  for (const [peer, experts] of Object.entries(init.peers ?? {})) announce(peer, experts)
  const holders = new Holders({
    self: 'self',
    view: () => new MergedView(new Map([...authors].sort(([a], [b]) => (a < b ? -1 : 1)))),
    holdsLocally: (model, layer, expert) => model === 'm' && layer === 0 && (init.own ?? []).includes(expert),
    isLinked: (peer) => linked.has(peer),
    linkChanges: () => 0,
  })
  return {
    holders,
    authors,
    linked,
    announce,
    renew,
    /** Peers that hold the expert, in the order of the candidates. */
    who: (expert: number, layer = 0, model = 'm') =>
      holders
        .candidates(model)
        .filter((candidate) => candidate.holds(layer, expert))
        .map((candidate) => candidate.peer),
  }
}

test('this node comes first, then those that announce the expert, by peer id', (t) => {
  const { who, holders } = setUp(t, { own: [1], peers: { zoe: [1, 9], ada: [1], self: [3] } })
  assert.deepEqual(who(1), ['self', 'ada', 'zoe'])
  assert.deepEqual(who(9), ['zoe'])
  assert.deepEqual(who(3), [], 'what this node serves it knows better than its own record')
  assert.deepEqual(
    holders.candidates('m').map(({ peer, local }) => [peer, local]),
    [
      ['self', true],
      ['ada', false],
      ['zoe', false],
    ],
  )
})

test('layers and experts beyond a bitmap, and other models, are held by nobody', (t) => {
  const { who } = setUp(t, { peers: { ada: [7] } })
  assert.deepEqual(who(7), ['ada'])
  assert.deepEqual([who(8), who(60_000), who(7, 1), who(7, 0, 'other')], [[], [], [], []])
})

test('a peer without a link is announced but no candidate', (t) => {
  const { who, linked, holders } = setUp(t, { peers: { ada: [1], bob: [1] } })
  linked.delete('ada')
  assert.deepEqual(who(1), ['bob'])
  assert.deepEqual(holders.announced('m'), ['ada', 'bob'])
  assert.deepEqual(holders.announced('other'), [])
})

test('a peer that denies an expert is not asked for it again for a minute, but for others', (t) => {
  const { who, holders } = setUp(t, { peers: { ada: [1, 2] } })
  t.mock.timers.tick(1)
  holders.deny('ada', 'm', 0, [1])
  assert.deepEqual([who(1), who(2)], [[], ['ada']])
  t.mock.timers.tick(59_999)
  assert.deepEqual(who(1), [])
  t.mock.timers.tick(1)
  assert.deepEqual(who(1), ['ada'])
})

test('a heartbeat does not end a denial; a changed statement ends the first one at once', (t) => {
  const { who, holders, announce, renew } = setUp(t, { peers: { ada: [1] } })
  assert.equal(holders.deny('ada', 'm', 0, [1]), false, 'perhaps it was dropped a moment ago')
  t.mock.timers.tick(10_000)
  renew('ada')
  assert.deepEqual(who(1), [])
  announce('ada', [1, 2])
  assert.deepEqual(who(1), ['ada'])
})

test('whoever denies the same expert again is believed the less the more often', (t) => {
  const { who, holders, announce } = setUp(t, { peers: { ada: [1] } })
  for (const minutes of [1, 2, 4, 8, 16, 32, 60, 60]) {
    assert.deepEqual(who(1), ['ada'])
    assert.equal(holders.deny('ada', 'm', 0, [1]), minutes > 1)
    if (minutes > 1) announce('ada', [1, 2])
    t.mock.timers.tick(minutes * 60_000 - 1)
    assert.deepEqual(who(1), [])
    t.mock.timers.tick(1)
  }
})

test('a statement that is denied for ten seconds is false; one that is corrected is not, nor a record of the DHT', (t) => {
  const { holders, announce, linked } = setUp(t, { peers: { ada: [1, 2, 3, 4], bob: [1, 2] } })
  assert.equal(holders.deny('ada', 'm', 0, [1]), false)
  t.mock.timers.tick(9_999)
  assert.equal(holders.deny('ada', 'm', 0, [2]), false)
  t.mock.timers.tick(1)
  assert.equal(holders.deny('ada', 'm', 0, [3]), true)
  assert.equal(holders.deny('bob', 'm', 0, [1]), false)
  t.mock.timers.tick(20_000)
  announce('bob', [2, 3])
  assert.equal(holders.deny('bob', 'm', 0, [2]), false)
  linked.add('zoe')
  for (let i = 0; i < 3; i++) {
    holders.hint('zoe', 'm', 0, [1])
    assert.equal(holders.deny('zoe', 'm', 0, [1]), false)
    t.mock.timers.tick(20_000)
  }
})

test('a peer found in the DHT holds what its record says, before the ledger knows the peer or its shard', (t) => {
  const { who, holders, linked, announce } = setUp(t, { peers: { bob: [5] } })
  linked.add('zoe').add('ada')
  holders.hint('zoe', 'm', 3, [1, 2])
  holders.hint('ada', 'm', 3, [2])
  holders.hint('bob', 'm', 3, [2])
  assert.deepEqual([who(1, 3), who(2, 3), who(2, 0)], [['zoe'], ['ada', 'bob', 'zoe'], []])
  announce('zoe', [6])
  assert.deepEqual([who(1, 3), who(6)], [['zoe'], ['zoe']])
  linked.delete('zoe')
  assert.deepEqual(who(1, 3), [])
})

test('a denial ends a hint, too', (t) => {
  const { who, holders, linked } = setUp(t)
  linked.add('zoe')
  holders.hint('zoe', 'm', 0, [1, 2])
  holders.deny('zoe', 'm', 0, [1])
  assert.deepEqual([who(1), who(2)], [[], ['zoe']])
  holders.deny('zoe', 'm', 0, [2])
  assert.deepEqual(
    holders.candidates('m').map(({ peer }) => peer),
    ['self'],
  )
})

test('however many peers come and go, only so many hints and denials are remembered', (t) => {
  const { who, holders, linked, announce } = setUp(t)
  for (let i = 0; i <= 256; i++) {
    linked.add(`peer ${i}`)
    holders.hint(`peer ${i}`, 'm', 0, [1])
  }
  assert.equal(who(1).length, 256)
  assert.ok(!who(1).includes('peer 0'))

  const experts = Array.from({ length: 513 }, (_, i) => i)
  announce('ada', experts)
  holders.deny('ada', 'm', 0, experts)
  assert.deepEqual([who(0), who(512)], [['ada'], []])
  for (let i = 0; i < 128; i++) holders.deny(`other ${i}`, 'm', 0, [1])
  assert.deepEqual(who(512), ['ada'])
})

test('candidates are listed anew only when the ledger, a link, a denial or a hint has changed', () => {
  const holdings = new Map([['m', [bitmapOf([1])]]])
  const author = { profile: null, leaving: null, routing: null, service: null, observed: null, holdings, updatedAt: 0, expiresAt: Infinity }
  let view = new MergedView(new Map([['ada', author]]))
  const links = new Set(['ada'])
  let linkChanges = 0
  const holders = new Holders({
    self: 'self',
    view: () => view,
    holdsLocally: () => false,
    isLinked: (peer) => links.has(peer),
    linkChanges: () => linkChanges,
  })
  const peers = (): string[] => holders.candidates('m').map(({ peer }) => peer)
  const first = holders.candidates('m')
  assert.equal(holders.candidates('m'), first)
  links.add('bob')
  view = new MergedView(new Map([...view.authors, ['bob', author]]))
  assert.deepEqual(peers(), ['self', 'ada', 'bob'])
  links.delete('ada')
  linkChanges++
  assert.deepEqual(peers(), ['self', 'bob'])
  links.add('zoe')
  holders.hint('zoe', 'm', 0, [1])
  assert.deepEqual(peers(), ['self', 'bob', 'zoe'])
  holders.deny('zoe', 'm', 0, [1])
  assert.deepEqual(peers(), ['self', 'bob'])
  const whoHolds = (): string[] => holders.candidates('m').flatMap((each) => (each.holds(0, 1) ? [each.peer] : []))
  assert.deepEqual(whoHolds(), ['bob'])
  holders.deny('bob', 'm', 0, [1])
  assert.deepEqual(whoHolds(), [])
  assert.equal(holders.candidates('m'), holders.candidates('m'))
})
