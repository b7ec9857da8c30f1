import assert from 'node:assert/strict'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { test } from 'node:test'
import { defaultListen, listenFault, usableListen } from '../../../node/net/listen-addresses.ts'

test('by default a node listens over TCP and QUIC, on IPv4 and IPv6, all on one port', () => {
  assert.deepEqual(defaultListen(), [
    '/ip4/0.0.0.0/tcp/4115',
    '/ip4/0.0.0.0/udp/4115/quic-v1',
    '/ip6/::/tcp/4115',
    '/ip6/::/udp/4115/quic-v1',
  ])
})

test('a port that another program has is told apart by protocol, and the rest is used', async (t) => {
  const udp = createSocket('udp4').bind(0, '127.0.0.1')
  t.after(() => udp.close())
  await once(udp, 'listening')
  const tcp = createServer().listen(0, '127.0.0.1')
  t.after(() => tcp.close())
  await once(tcp, 'listening')
  const [udpPort, tcpPort] = [udp.address().port, (tcp.address() as AddressInfo).port]
  const first = `/ip4/127.0.0.1/tcp/${tcpPort}`
  const taken = `/ip4/127.0.0.1/udp/${udpPort}/quic-v1`
  const { listen, leftOut } = await usableListen([first, taken, '/ip4/127.0.0.1/tcp/0'])
  // The first is left to libp2p, whose failure ends the start.
  assert.deepEqual(listen, [first, '/ip4/127.0.0.1/tcp/0'])
  assert.deepEqual(leftOut, [{ address: taken, reason: 'the port is in use' }])
  assert.equal(await listenFault(first), 'the port is in use')
})

test('an address that this machine does not have is no reason to fail, and is told', async () => {
  const { listen, leftOut } = await usableListen(['/ip4/127.0.0.1/tcp/0', '/ip6/2001:db8::1/tcp/0', '/ip6/2001:db8::1/udp/0/quic-v1'])
  assert.deepEqual(listen, ['/ip4/127.0.0.1/tcp/0'])
  assert.deepEqual(
    leftOut.map(({ address }) => address),
    ['/ip6/2001:db8::1/tcp/0', '/ip6/2001:db8::1/udp/0/quic-v1'],
  )
  for (const { reason } of leftOut) assert.match(reason, /EADDRNOTAVAIL|EAFNOSUPPORT/)
})
