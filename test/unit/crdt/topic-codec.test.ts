import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deflateRawSync } from 'node:zlib'
import fc from 'fast-check'
import { bitmapHas, bitmapMembers, bitmapOf } from '../../../crdt/bitmap.ts'
import { LIMITS, TOPICS } from '../../../crdt/schema.ts'
import type { Topic } from '../../../crdt/schema.ts'
import { decodeTopic, encodeTopic } from '../../../crdt/topic-codec.ts'
import { isMeshError } from '../../../protocols/wire/errors.ts'
import { seededRandom } from '../../helpers/ledger.ts'

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')
const refused = (error: unknown): boolean => isMeshError(error, 'InvalidMessageError') || isMeshError(error, 'LimitExceededError')

test('bitmaps hold sets of experts', () => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.nat(300)), (experts) => {
      const bitmap = bitmapOf(experts)
      assert.deepEqual(
        bitmapMembers(bitmap),
        experts.toSorted((a, b) => a - b),
      )
      assert.ok(experts.every((expert) => bitmapHas(bitmap, expert)))
      assert.equal(bitmapHas(bitmap, 5000), false)
    }),
  )
})

test('profile and service survive packing', () => {
  const profile = { name: 'Küche 🏠', version: '0.1.0', relayed: true }
  assert.deepEqual(decodeTopic('profile', encodeTopic('profile', profile)), profile)
  const service = { served: 2 ** 40, busy: 3, failed: 0, p50Us: 120, p95Us: 800 }
  assert.deepEqual(decodeTopic('service', encodeTopic('service', service)), service)
})

test('holdings survive packing, trimmed and sorted', () => {
  const packed = encodeTopic(
    'holdings',
    new Map([
      ['b', [bitmapOf([1, 9]), new Uint8Array(16), bitmapOf([0])]],
      ['empty', [new Uint8Array(4)]],
      ['a', [new Uint8Array(), Uint8Array.of(255, 0, 0)]],
    ]),
  )
  const value = decodeTopic('holdings', packed)
  assert.ok(value)
  assert.deepEqual([...value.keys()], ['a', 'b'])
  assert.deepEqual(value.get('a')!.map(hex), ['', 'ff'])
  assert.deepEqual(value.get('b')!.map(hex), ['0202', '', '01'])
  assert.deepEqual(encodeTopic('holdings', value), packed)
})

test('the routing counts of a 48-layer, 128-expert model fit, whatever they are', () => {
  const random = seededRandom(7)
  const counts = Array.from({ length: 48 * 128 }, () => Math.floor(random() * 2 ** 32))
  const packed = encodeTopic('routing', new Map([['model', { layers: 48, experts: 128, counts }]]))
  assert.ok(packed.length <= LIMITS.maxTopicBytes, `${packed.length} bytes`)
  assert.deepEqual(Array.from(decodeTopic('routing', packed)!.get('model')!.counts), counts)
})

test('counts beyond 32 bits are kept exactly', () => {
  const counts = [2 ** 53 - 1, 0, 2 ** 32]
  const routing = new Map([['m', { layers: 1, experts: 3, counts }]])
  assert.deepEqual(Array.from(decodeTopic('routing', encodeTopic('routing', routing))!.get('m')!.counts), counts)
})

const text = (value: string): string => Buffer.concat([Buffer.of(Buffer.byteLength(value)), Buffer.from(value)]).toString('hex')
const bad: [string, Topic, string][] = [
  ['nothing', 'profile', ''],
  ['no coding', 'profile', '01'],
  ['an unknown coding', 'profile', '0107'],
  ['a truncated name', 'profile', '01000561'],
  ['a name with a line break', 'profile', `0100${text('a\nb')}${text('1')}00`],
  ['a name with an escape sequence', 'profile', `0100${text('a\u001b[2J')}${text('1')}00`],
  ['a name written right to left', 'profile', `0100${text('a\u202eb')}${text('1')}00`],
  ['a name that is too long', 'profile', `0100${text('x'.repeat(65))}${text('1')}00`],
  ['a name that is no UTF-8', 'profile', `010001ff${text('1')}00`],
  ['a fact that is neither true nor false', 'profile', `0100${text('a')}${text('1')}02`],
  ['an overlong varint', 'service', '01008000000000'],
  ['a number beyond 2^53', 'service', '0100ffffffffffffff7f00000000'],
  ['an endless varint', 'service', '0100ffffffffffffffffff01'],
  ['quantiles in the wrong order', 'service', '01000000000201'],
  ['too many models', 'holdings', '010021'],
  ['a model named with a slash', 'holdings', `010001${text('a/b')}010101`],
  ['a model without a name', 'holdings', `010001${text('')}010101`],
  ['models out of order', 'holdings', `010002${text('b')}010101${text('a')}010101`],
  ['a model twice', 'holdings', `010002${text('a')}010101${text('a')}010101`],
  ['no layers', 'holdings', `010001${text('a')}00`],
  ['too many layers', 'holdings', `010001${text('a')}8104`],
  ['a bitmap that is too long', 'holdings', `010001${text('a')}018104`],
  ['a bitmap that ends in zero', 'holdings', `010001${text('a')}01020100`],
  ['an empty last layer', 'holdings', `010001${text('a')}02010100`],
  ['no experts', 'routing', `010001${text('a')}0100`],
  ['more counts than bytes', 'routing', `010001${text('a')}8080018001`],
  ['more counts than allowed', 'routing', `010001${text('a')}80048020${'00'.repeat(100)}`],
  ['what does not inflate', 'routing', '0101ffffff'],
  ['what inflates too far', 'routing', `0101${deflateRawSync(Buffer.alloc(LIMITS.maxInflatedBytes + 1)).toString('hex')}`],
]
for (const [what, topic, bytes] of bad) {
  test(`${topic} refuses ${what}`, () => {
    assert.throws(() => decodeTopic(topic, Buffer.from(bytes, 'hex')), refused)
  })
}

test('a topic of another version is not read, but no fault either', () => {
  assert.equal(decodeTopic('profile', Buffer.from('02ffff', 'hex')), null)
})

test('fields of later revisions are ignored', () => {
  const service = { served: 1, busy: 2, failed: 3, p50Us: 4, p95Us: 5, latency: { first: 7, counts: Uint32Array.of(2, 0, 1) } }
  assert.deepEqual(decodeTopic('service', Buffer.concat([encodeTopic('service', service), Buffer.from('later')])), service)
  const profile = { name: 'a', version: '1', relayed: false, budgetBytes: 300 }
  assert.deepEqual(decodeTopic('profile', Buffer.concat([encodeTopic('profile', profile), Buffer.from('later')])), profile)
})

test('fields that earlier revisions lack are absent', () => {
  const profile = { name: 'a', version: '1', relayed: true }
  assert.deepEqual(decodeTopic('profile', encodeTopic('profile', profile)), profile)
  const service = { served: 1, busy: 2, failed: 3, p50Us: 4, p95Us: 5 }
  assert.deepEqual(decodeTopic('service', encodeTopic('service', service)), service)
  const counted = { layers: 1, experts: 2, counts: Uint32Array.of(1, 2) }
  assert.deepEqual(decodeTopic('routing', encodeTopic('routing', new Map([['m', counted]]))), new Map([['m', counted]]))
})

test('what would not be accepted can not be stated', () => {
  assert.throws(() => encodeTopic('profile', { name: 'x'.repeat(65), version: '1', relayed: false }), refused)
  assert.throws(() => encodeTopic('service', { served: -1, busy: 0, failed: 0, p50Us: 0, p95Us: 0 }), refused)
  assert.throws(() => encodeTopic('routing', new Map([['m', { layers: 2, experts: 2, counts: [1] }]])), refused)
  assert.throws(() => encodeTopic('routing', new Map([['m', { layers: 1, experts: 1, counts: [1.5] }]])), refused)
  assert.throws(() => encodeTopic('holdings', new Map([['../etc', [Uint8Array.of(1)]]])), refused)
})

test('random bytes never do worse than be refused', () => {
  fc.assert(
    fc.property(fc.constantFrom<Topic>(...TOPICS), fc.constantFrom(0, 1), fc.uint8Array({ maxLength: 80 }), (topic, coding, bytes) => {
      try {
        decodeTopic(topic, Buffer.concat([Buffer.of(1, coding), bytes]))
      } catch (error) {
        assert.ok(refused(error), String(error))
      }
    }),
    { numRuns: 2000 },
  )
})
