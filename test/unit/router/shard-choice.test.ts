import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { chooseShards, parseHostChoice } from '../../../node/router/shard-choice.ts'
import type { HostChoice, ShardRange } from '../../../node/router/shard-choice.ts'

/** 8 layers of 4 shards of 2 experts. */
const SHARDS: readonly ShardRange[] = Array.from({ length: 32 }, (_, i) => ({
  cid: `shard ${i}`,
  layer: Math.floor(i / 4),
  first: (i % 4) * 2,
  last: (i % 4) * 2 + 1,
}))

const cids = (choice: HostChoice, peer = 'me'): string[] => chooseShards(choice, SHARDS, peer).map((shard) => shard.cid)

test('the choices read as what they say', () => {
  const read: Readonly<Record<string, HostChoice>> = {
    all: { kind: 'all' },
    ' none ': { kind: 'none' },
    '0.5': { kind: 'fraction', share: 0.5 },
    '.25': { kind: 'fraction', share: 0.25 },
    '1': { kind: 'fraction', share: 1 },
    '0:1': { kind: 'list', ranges: [{ layer: 0, first: 1, last: 1 }] },
    '0:0-3, 7:2-2': {
      kind: 'list',
      ranges: [
        { layer: 0, first: 0, last: 3 },
        { layer: 7, first: 2, last: 2 },
      ],
    },
  }
  for (const [text, choice] of Object.entries(read)) assert.deepEqual(parseHostChoice(text), choice, text)
})

test('what is none of them is refused with a sentence of its own', () => {
  const says: Readonly<Record<string, RegExp>> = {
    '0': /^--host 0: a fraction must be above 0 and at most 1, for example 0\.5$/,
    '1.5': /^--host 1\.5: a fraction must be above 0 and at most 1/,
    '': /^--host : expected all, none, auto, a fraction such as 0\.5, or <layer>:<first>-<last>,\.\.\. but found ""$/,
    some: /but found "some"$/,
    '-0.5': /but found "-0\.5"$/,
    '1e-1': /but found "1e-1"$/,
    'all,none': /but found "all"$/,
    '0:1,': /but found ""$/,
    '0:a': /but found "0:a"$/,
    '0:1-': /but found "0:1-"$/,
    '123456:1': /but found "123456:1"$/,
    '0:3-1': /^--host 0:3-1: the range "0:3-1" ends before it begins$/,
  }
  for (const [text, message] of Object.entries(says)) assert.throws(() => parseHostChoice(text), { name: 'ConfigError', message }, text)
  assert.throws(() => parseHostChoice('x', 'SKEIN_HOST'), { message: /^SKEIN_HOST x: expected/ })
})

test('any text is read or refused, never anything else', () => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.stringMatching(/^[0-9:,. -]{0,12}$/)), (text) => {
      try {
        parseHostChoice(text)
      } catch (error) {
        assert.equal((error as Error).name, 'ConfigError')
      }
    }),
  )
})

test('all is all, none is none', () => {
  assert.deepEqual(chooseShards({ kind: 'all' }, SHARDS, 'me'), SHARDS)
  assert.deepEqual(cids({ kind: 'none' }), [])
})

test('a listed range takes every shard that it touches, once, in the order of the model', () => {
  assert.deepEqual(cids(parseHostChoice('1:7,0:1-2,0:2-3')), ['shard 0', 'shard 1', 'shard 7'])
})

test('a range that the model does not have is refused with what it has', () => {
  const refuses = (text: string, message: RegExp): void =>
    assert.throws(() => chooseShards(parseHostChoice(text), SHARDS, 'me'), { name: 'ConfigError', message })
  refuses('8:0', /^--host: the model has no layer 8 with experts \(it has them in layers 0-7\)$/)
  refuses('0:0,2:4-8', /^--host: layer 2 has experts 0-7, not 4-8$/)
  refuses('2:9', /^--host: layer 2 has experts 0-7, not 9-9$/)
})

test('a fraction takes that share of the shards, at least one, and always the same for a peer', () => {
  for (const [share, count] of [
    [0.001, 1],
    [0.25, 8],
    [0.5, 16],
    [1, 32],
  ] as const) {
    const chosen = cids({ kind: 'fraction', share })
    assert.equal(chosen.length, count)
    assert.deepEqual(cids({ kind: 'fraction', share }), chosen)
  }
})

test('a fraction takes whole layers, and only of one layer a part', () => {
  for (let peer = 0; peer < 20; peer++) {
    const chosen = chooseShards({ kind: 'fraction', share: 0.3 }, SHARDS, `peer ${peer}`)
    const perLayer = [...Map.groupBy(chosen, (shard) => shard.layer).values()].map((layer) => layer.length).sort((a, b) => a - b)
    assert.deepEqual(perLayer, [2, 4, 4])
  }
})

test('a larger share holds the smaller one, so that raising it drops nothing', () => {
  const small = cids({ kind: 'fraction', share: 0.25 })
  const large = new Set(cids({ kind: 'fraction', share: 0.75 }))
  assert.ok(small.every((cid) => large.has(cid)))
})

test('a layer that a model gains moves no other shards but the last', () => {
  const grown = [...SHARDS, { cid: 'new', layer: 8, first: 0, last: 7 }]
  for (let peer = 0; peer < 20; peer++) {
    const before = chooseShards({ kind: 'fraction', share: 0.5 }, SHARDS, `peer ${peer}`)
    const after = new Set(chooseShards({ kind: 'fraction', share: 0.5 }, grown, `peer ${peer}`).map((shard) => shard.cid))
    assert.ok(before.filter((shard) => !after.has(shard.cid)).length <= 1)
  }
})

test('peers that ask for the same share hold different shards, and together cover them evenly', () => {
  const peers = 64
  const held = new Map<string, number>()
  const choices = new Map<string, number>()
  for (let peer = 0; peer < peers; peer++) {
    const chosen = cids({ kind: 'fraction', share: 0.5 }, `peer ${peer}`)
    choices.set(chosen.join(), (choices.get(chosen.join()) ?? 0) + 1)
    for (const cid of chosen) held.set(cid, (held.get(cid) ?? 0) + 1)
  }
  // There are 70 ways to take 4 of 8 layers.
  assert.ok(Math.max(...choices.values()) <= 5, 'too many peers hold the same')
  assert.equal(held.size, SHARDS.length)
  // 32 expected; a binomial count of 64 at one half lies within four standard deviations.
  for (const [cid, count] of held) assert.ok(Math.abs(count - peers / 2) <= 16, `${cid} is held by ${count} of ${peers}`)
})
