import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { addressBytes, addressText } from '../../../protocols/punch/address.ts'
import { decodeMessage, encodeMessage } from '../../../protocols/punch/messages.ts'
import type { PunchMessage } from '../../../protocols/punch/messages.ts'
import { encodeProbe, probeOf } from '../../../protocols/punch/probe.ts'
import { NO_REACH, PUNCH_LIMITS } from '../../../protocols/punch/protocol.ts'
import { bindingRequestOf, bindingResponseOf, encodeBindingRequest, encodeBindingResponse } from '../../../protocols/punch/stun.ts'
import { isMeshError } from '../../../protocols/wire/errors.ts'
import { vector } from '../../helpers/vector.ts'

const TOKEN = Uint8Array.from({ length: 16 }, (_, i) => i + 1)
const SIDE = {
  udp: {
    mapping: 'independent',
    endpoints: [
      { address: '203.0.113.7', port: 4116 },
      { address: '2001:db8::1', port: 65535 },
    ],
  },
  tcp: { mapping: 'dependent', endpoints: [{ address: '203.0.113.7', port: 1 }] },
} as const

const VECTORS: Readonly<Record<string, PunchMessage>> = {
  ask: { kind: 'ask' },
  reflectors: {
    kind: 'reflectors',
    reflectors: [
      { transport: 'udp', port: 4116 },
      { transport: 'tcp', port: 4117 },
    ],
  },
  offer: { kind: 'offer', token: TOKEN, side: SIDE },
  answer: { kind: 'answer', delayMs: 258, side: { udp: SIDE.udp, tcp: NO_REACH } },
  go: { kind: 'go' },
  'refusal-busy': { kind: 'refusal', status: 'busy' },
}

const refused = (error: unknown): boolean => isMeshError(error, 'InvalidMessageError') || isMeshError(error, 'LimitExceededError')

for (const [name, message] of Object.entries(VECTORS)) {
  test(`the ${name} vector is what it says, both ways`, () => {
    assert.deepEqual(decodeMessage(vector('punch', name)), message)
    assert.deepEqual(Buffer.from(encodeMessage(message)).toString('hex'), Buffer.from(vector('punch', name)).toString('hex'))
  })
}

test('bytes after the known fields are ignored, a refusal of the future is unknown', () => {
  assert.deepEqual(decodeMessage(Uint8Array.from([...encodeMessage(VECTORS['offer']!), 9, 9])), VECTORS['offer'])
  assert.deepEqual(decodeMessage(Uint8Array.of(6, 1, 44)), { kind: 'refusal', status: 'unknown' })
  assert.deepEqual(decodeMessage(Uint8Array.of(2, 1, 3, 0, 80)), { kind: 'reflectors', reflectors: [] })
})

test('messages cut short, too long or impossible are refused', () => {
  for (const message of Object.values(VECTORS)) {
    const bytes = encodeMessage(message)
    for (let length = 0; length < bytes.length; length++) assert.throws(() => decodeMessage(bytes.subarray(0, length)), refused)
  }
  assert.throws(() => decodeMessage(new Uint8Array(PUNCH_LIMITS.maxMessageBytes + 1)), refused)
  assert.throws(() => decodeMessage(Uint8Array.of(99)), refused)
  assert.throws(() => decodeMessage(Uint8Array.of(2, 9)), refused)
  assert.throws(() => decodeMessage(Uint8Array.of(2, 1, 1, 0, 0)), refused, 'port 0')
  assert.throws(() => decodeMessage(Uint8Array.from([3, ...TOKEN, 7, 0, 0, 0])), refused, 'a mapping that is none')
  assert.throws(() => decodeMessage(Uint8Array.from([3, ...TOKEN, 1, 1, 5, 1, 2, 3, 4, 5, 0, 1, 0, 0])), refused, 'an address of 5 bytes')
})

test('any bytes give a message or a refusal, and never anything else', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), fc.integer({ min: 0, max: 7 }), (bytes, kind) => {
      try {
        decodeMessage(Uint8Array.from([kind, ...bytes]))
      } catch (error) {
        assert.ok(refused(error), String(error))
      }
    }),
  )
})

test('addresses survive their bytes', () => {
  for (const address of ['0.0.0.0', '255.1.2.3', '::', '::1', '2001:db8::ff00:42:8329', 'fe80::1', '1:2:3:4:5:6:7:8'])
    assert.equal(addressText(addressBytes(address)), address)
  assert.equal(addressText(addressBytes('::ffff:192.0.2.1')), '::ffff:c000:201')
  assert.throws(() => addressBytes('example.org'), refused)
  fc.assert(fc.property(fc.ipV6(), (address) => assert.deepEqual(addressBytes(addressText(addressBytes(address))), addressBytes(address))))
})

test('STUN: the sample responses of RFC 5769', () => {
  const transaction = 'b7e7a701bc34d686fa87dfae'
  const ipv4 =
    '0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96'
  const ipv6 =
    '010100482112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d900080014a382954e4be67bf11784c97c8292c275bfe3ed4180280004c8fb0b4c'
  for (const [hex, address] of [
    [ipv4, '192.0.2.1'],
    [ipv6, '2001:db8:1234:5678:11:2233:4455:6677'],
  ] as const) {
    const response = bindingResponseOf(Buffer.from(hex, 'hex'))!
    assert.equal(Buffer.from(response.transaction).toString('hex'), transaction)
    assert.deepEqual(response.seen, { address, port: 32853 })
    assert.deepEqual(bindingResponseOf(encodeBindingResponse(response.transaction, response.seen))?.seen, response.seen)
  }
})

test('STUN: requests are told from everything else', () => {
  const transaction = Uint8Array.from({ length: 12 }, (_, i) => i)
  const request = encodeBindingRequest(transaction)
  assert.deepEqual(Buffer.from(bindingRequestOf(request)!), Buffer.from(transaction))
  assert.equal(bindingResponseOf(request), null)
  assert.equal(bindingRequestOf(request.subarray(0, 19)), null)
  assert.equal(bindingRequestOf(request.with(4, 0)), null, 'another cookie')
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 64 }), (bytes) => {
      bindingResponseOf(Uint8Array.from([1, 1, 0, 40, 0x21, 0x12, 0xa4, 0x42, ...transaction, ...bytes]))
    }),
  )
})

test('a probe is its kind and token, and nothing else is a probe', () => {
  for (const kind of ['call', 'echo'] as const)
    assert.deepEqual(probeOf(encodeProbe(kind, TOKEN)), { kind, token: Buffer.from(TOKEN).toString('hex') })
  const probe = encodeProbe('call', TOKEN)
  assert.equal(probeOf(probe.subarray(0, 20)), null)
  assert.equal(probeOf(probe.with(4, 3)), null)
  assert.equal(probeOf(probe.with(0, 0)), null)
})
