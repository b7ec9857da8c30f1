import assert from 'node:assert/strict'
import { test } from 'node:test'
import { readAnswer } from '../../../node/net/link-local-discovery.ts'

const PEER = '12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN'

test('an address in an answer is dialled over the interface on which the answer came', () => {
  const found = readAnswer(`dnsaddr=/ip6/fe80::98d5:a7ff:feaa:f9fd/tcp/4115/p2p/${PEER}`, 'eth0')
  assert.equal(found?.id.toString(), PEER)
  assert.equal(found.address.toString(), '/ip6zone/eth0/ip6/fe80::98d5:a7ff:feaa:f9fd/tcp/4115')
})

test('an answer directs no dial off the link, nor to anything but TCP', () => {
  for (const text of [
    `dnsaddr=/ip6/2001:db8::1/tcp/4115/p2p/${PEER}`,
    `dnsaddr=/ip6/::1/tcp/4115/p2p/${PEER}`,
    `dnsaddr=/ip4/192.168.1.2/tcp/4115/p2p/${PEER}`,
    `dnsaddr=/ip6zone/lo/ip6/fe80::1/tcp/4115/p2p/${PEER}`,
    `dnsaddr=/ip6/fe80::1/udp/4115/quic-v1/p2p/${PEER}`,
    `dnsaddr=/ip6/fe80::1/tcp/4115/p2p/${PEER}/p2p-circuit`,
    'dnsaddr=/ip6/fe80::1/tcp/4115',
    'dnsaddr=/ip6/fe80::1/tcp/4115/p2p/nobody',
    `/ip6/fe80::1/tcp/4115/p2p/${PEER}`,
    'dnsaddr=',
    '',
  ])
    assert.equal(readAnswer(text, 'eth0'), null, text)
})
