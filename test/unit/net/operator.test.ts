import assert from 'node:assert/strict'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import { isPrivateHost, operatorOf } from '../../../node/net/operator.ts'

const operator = (address: string): string => operatorOf(multiaddr(address), 'peer')

test('addresses of one network belong to one operator', () => {
  assert.equal(operator('/ip4/52.1.2.3/tcp/1'), operator('/ip4/52.1.200.9/udp/4/quic-v1'))
  assert.notEqual(operator('/ip4/52.1.2.3/tcp/1'), operator('/ip4/52.2.2.3/tcp/1'))
  assert.equal(operator('/ip6/2a01:4f8:1::1/tcp/1'), operator('/ip6/2a01:4f8:ffff::2/tcp/1'))
  assert.notEqual(operator('/ip6/2a01:4f8:1::1/tcp/1'), operator('/ip6/2a01:4f9:1::1/tcp/1'))
})

test('addresses that are used everywhere say nothing of the operator', () => {
  for (const address of ['/ip4/127.0.0.1/tcp/1', '/ip4/192.168.1.2/tcp/1', '/ip6/fe80::1/tcp/1', '/dns4/example.org/tcp/1'])
    assert.equal(operator(address), 'peer')
})

test('private hosts are those that no router of the internet passes on', () => {
  const privates = [
    '10.0.0.1',
    '127.0.0.1',
    '100.64.0.1',
    '172.31.0.1',
    '169.254.1.1',
    '192.168.0.1',
    '0.0.0.0',
    '::1',
    'fe80::1%eth0',
    'fd00::1',
    '::',
  ]
  for (const host of privates) assert.ok(isPrivateHost(host), host)
  for (const host of ['52.0.0.1', '100.63.0.1', '172.32.0.1', '2a01:4f8::1', '2606:4700::1111']) assert.ok(!isPrivateHost(host), host)
})
