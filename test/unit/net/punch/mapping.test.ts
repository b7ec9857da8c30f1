import assert from 'node:assert/strict'
import { test } from 'node:test'
import { judgeMapping } from '../../../../node/net/punch/mapping.ts'
import type { Sighting } from '../../../../node/net/punch/mapping.ts'

const ME = '203.0.113.9'
const seen = (host: string, port: number, at = ME): Sighting => ({
  reflector: { address: host, port: 4116 },
  seen: { address: at, port },
})

test('nobody saw anything', () => {
  assert.deepEqual(judgeMapping([]), { mapping: 'none', endpoints: [] })
})

test('one endpoint for all is independent', () => {
  assert.deepEqual(judgeMapping([seen('a', 7), seen('b', 7)]), { mapping: 'independent', endpoints: [{ address: ME, port: 7 }] })
})

test('another port for each is dependent, also when one machine alone shows it', () => {
  assert.equal(judgeMapping([seen('a', 7), seen('b', 8)]).mapping, 'dependent')
  assert.equal(judgeMapping([seen('a', 7), seen('a', 8)]).mapping, 'dependent')
})

test('a liar among three changes nothing but the end of the list', () => {
  const lie = seen('liar', 9, '198.51.100.1')
  for (const sightings of [
    [lie, seen('a', 7), seen('b', 7)],
    [seen('a', 7), lie, seen('b', 7)],
  ]) {
    assert.deepEqual(judgeMapping(sightings), {
      mapping: 'independent',
      endpoints: [
        { address: ME, port: 7 },
        { address: '198.51.100.1', port: 9 },
      ],
    })
  }
})

test('a machine does not outvote two others with many ports', () => {
  const [first] = judgeMapping([seen('liar', 9), seen('liar', 9), seen('liar', 9), seen('a', 7), seen('b', 7)]).endpoints
  assert.deepEqual(first, { address: ME, port: 7 })
})

test('of two that disagree the true endpoint is still among those to call', () => {
  const { endpoints } = judgeMapping([seen('liar', 9, '198.51.100.1'), seen('a', 7)])
  assert.ok(endpoints.some(({ address, port }) => address === ME && port === 7))
})
