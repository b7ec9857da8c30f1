import assert from 'node:assert/strict'
import { networkInterfaces } from 'node:os'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import { linkKind } from '../../node/net/link-kind.ts'
import { startBarePeer } from '../helpers/bare-peer.ts'
import { startSlowLine } from '../helpers/slow-line.ts'

const hasIpv6 = Object.values(networkInterfaces()).some((entries) => entries!.some(({ address }) => address === '::1'))
/** An interface of this machine with a link-local address, such as `eth0` and `fe80::1`. */
const [link] = Object.entries(networkInterfaces()).flatMap(([zone, entries = []]) =>
  entries.filter(({ address }) => address.startsWith('fe80:')).map(({ address }) => ({ zone, address })),
)
const WAYS = [
  { kind: 'tcp', listen: '/ip4/127.0.0.1/tcp/0' },
  { kind: 'quic', listen: '/ip4/127.0.0.1/udp/0/quic-v1' },
  { kind: 'websocket', listen: '/ip4/127.0.0.1/tcp/0/ws' },
  { kind: 'tcp', listen: '/ip6/::1/tcp/0' },
  { kind: 'quic', listen: '/ip6/::1/udp/0/quic-v1' },
] as const

for (const { kind, listen } of WAYS) {
  const skip = listen.startsWith('/ip6/') && !hasIpv6 ? 'this machine has no IPv6' : false
  test(`peers meet at ${listen}`, { skip }, async (t) => {
    const host = await startBarePeer(t, { swarm: 'transports', connectTo: [], listen: [listen] })
    const guest = await startBarePeer(t, { swarm: 'transports', connectTo: [], listen: [] })
    const [address] = host.mesh.getMultiaddrs()
    const connection = await guest.mesh.dial(multiaddr(address!.toString()), { signal: AbortSignal.timeout(10_000) })
    assert.equal(linkKind(connection), kind)
    assert.equal(connection.remotePeer.toString(), host.peer)
    await guest.mesh.services.membership.proved(connection)
    assert.ok((await guest.mesh.services.ping.ping(host.mesh.peerId, { signal: AbortSignal.timeout(5_000) })) >= 0)
  })
}

const skip = link === undefined ? 'this machine has no link-local IPv6 address' : false
test('peers meet at a link-local address, which is dialled with its interface', { skip }, async (t) => {
  const host = await startBarePeer(t, { swarm: 'transports', connectTo: [], listen: ['/ip6/::/tcp/0'] })
  const guest = await startBarePeer(t, { swarm: 'transports', connectTo: [], listen: [] })
  const port = /\/tcp\/(\d+)/.exec(host.mesh.getMultiaddrs()[0]!.toString())![1]!
  const address = multiaddr(`/ip6zone/${link!.zone}/ip6/${link!.address}/tcp/${port}/p2p/${host.peer}`)
  const connection = await guest.mesh.dial(address, { signal: AbortSignal.timeout(10_000) })
  await guest.mesh.services.membership.proved(connection)
  const [inbound] = host.mesh.getConnections(guest.mesh.peerId)
  assert.match(inbound!.remoteAddr.toString(), /^\/ip6\/fe80:/)
})

/** A handshake takes four of them, and so 6.4 s. */
const SLOW_ONE_WAY_MS = 1_600

test('a peer is dialled over a line on which the handshake takes longer than a dead address is given', async (t) => {
  const host = await startBarePeer(t, { swarm: 'transports', connectTo: [] })
  const guest = await startBarePeer(t, { swarm: 'transports', connectTo: [], listen: [] })
  const line = await startSlowLine(t, host.mesh.getMultiaddrs()[0]!.toString(), SLOW_ONE_WAY_MS)
  const connection = await guest.mesh.dial(multiaddr(line.address), { signal: AbortSignal.timeout(30_000) })
  assert.equal(connection.remotePeer.toString(), host.peer)
})
