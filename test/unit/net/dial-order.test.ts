import assert from 'node:assert/strict'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import { byDialOrder } from '../../../node/net/dial-order.ts'

const PEER = '12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN'

test('addresses that strangers can reach come first, loopback last, and QUIC after whatever else leads to such a host', () => {
  const wanted = [
    '/ip4/52.0.0.9/tcp/4115',
    `/ip4/52.0.0.1/tcp/4115/p2p/${PEER}/p2p-circuit`,
    // Through a relay, however the relay is reached.
    `/ip4/52.0.0.1/udp/4115/quic-v1/p2p/${PEER}/p2p-circuit`,
    '/ip4/52.0.0.9/udp/4115/quic-v1',
    '/ip6/fd00::9/tcp/4115',
    '/ip4/192.168.1.9/tcp/4115',
    '/ip4/192.168.1.9/udp/4115/quic-v1',
    '/ip4/127.0.0.1/tcp/4115',
    '/ip4/127.0.0.1/udp/4115/quic-v1',
  ]
  const shuffled = [8, 3, 0, 4, 6, 1, 7, 5, 2].map((i) => ({ multiaddr: multiaddr(wanted[i]), isCertified: wanted[i]!.includes('fd00') }))
  assert.deepEqual(
    shuffled.sort(byDialOrder).map((address) => address.multiaddr.toString()),
    wanted,
  )
})
