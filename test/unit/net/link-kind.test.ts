import assert from 'node:assert/strict'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import { bestConnection, isBetterLink, linkKind } from '../../../node/net/link-kind.ts'

const PEER = '12D3KooWJwn3quSMNFkq6M2f11p3ppFhysksGu65aSsRyNz3CqAm'
const at = (address: string, status: 'open' | 'closed' = 'open') => ({ remoteAddr: multiaddr(address), status })
const TCP = at(`/ip4/192.0.2.1/tcp/1/p2p/${PEER}`)
const QUIC = at(`/ip6/2001:db8::1/udp/1/quic-v1/p2p/${PEER}`)
const RELAY = at(`/ip4/192.0.2.1/tcp/1/p2p/${PEER}/p2p-circuit/p2p/${PEER}`)
const WEBRTC = at(`/ip4/192.0.2.1/tcp/1/p2p/${PEER}/p2p-circuit/webrtc/p2p/${PEER}`)
const WEBSOCKET = at('/dns4/example.org/tcp/443/tls/ws')

test('an address tells what carries its connection', () => {
  assert.deepEqual([TCP, QUIC, RELAY, WEBRTC, WEBSOCKET, at('/memory/1')].map(linkKind), [
    'tcp',
    'quic',
    'relay',
    'webrtc',
    'websocket',
    'memory',
  ])
})

test('TCP is better than QUIC, and anything than a relay', () => {
  assert.ok(isBetterLink(TCP, QUIC) && isBetterLink(QUIC, WEBRTC) && isBetterLink(WEBRTC, RELAY))
  assert.ok(!isBetterLink(TCP, TCP) && !isBetterLink(RELAY, TCP))
})

test('the best open connection is chosen, the oldest of equals', () => {
  const newer = at(`/ip4/192.0.2.1/tcp/2/p2p/${PEER}`)
  assert.equal(bestConnection([RELAY, QUIC]), QUIC)
  assert.equal(bestConnection([RELAY, TCP, newer]), TCP)
  assert.equal(bestConnection([{ ...TCP, status: 'closed' as const }, RELAY])?.remoteAddr, RELAY.remoteAddr)
  assert.equal(bestConnection([]), undefined)
})
