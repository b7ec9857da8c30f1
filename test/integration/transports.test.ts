import assert from 'node:assert/strict'
import { networkInterfaces } from 'node:os'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import { linkKind } from '../../node/net/link-kind.ts'
import { startBarePeer } from '../helpers/bare-peer.ts'

const hasIpv6 = Object.values(networkInterfaces()).some((entries) => entries!.some(({ address }) => address === '::1'))
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
