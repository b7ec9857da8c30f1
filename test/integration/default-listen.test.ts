/** A node that listens as it does by default, each way in. */
import assert from 'node:assert/strict'
import { networkInterfaces } from 'node:os'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import { linkKind } from '../../node/net/link-kind.ts'
import { defaultListen } from '../../node/net/listen-addresses.ts'
import { EXPERT_PROTOCOL } from '../../protocols/expert/index.ts'
import { ID as LEDGER_PROTOCOL } from '../../protocols/ledger/index.ts'
import { startBarePeer } from '../helpers/bare-peer.ts'
import { createSwarm } from '../helpers/swarm.ts'

const hasIpv6 = Object.values(networkInterfaces()).some((entries) => entries!.some(({ address }) => address === '::1'))
const WAYS = [
  { kind: 'tcp', at: '/ip4/127.0.0.1/tcp/' },
  { kind: 'quic', at: '/ip4/127.0.0.1/udp/' },
  { kind: 'tcp', at: '/ip6/::1/tcp/' },
  { kind: 'quic', at: '/ip6/::1/udp/' },
] as const

test('members are served Skein’s protocols over TCP and QUIC, IPv4 and IPv6, and strangers nowhere', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const node = await swarm.start({ host: 'all', listen: [...defaultListen(0)] })
  for (const { kind, at } of WAYS) {
    if (at.startsWith('/ip6/') && !hasIpv6) {
      t.diagnostic(`${at} not tried: this machine has no IPv6`)
      continue
    }
    const address = node.addresses.find((one) => one.startsWith(at))
    assert.ok(address, `${at} of ${node.addresses.join(' ')}`)
    assert.ok(!address.includes('fe80'))
    const dial = async (name: string, protocol: string): Promise<string> => {
      const peer = await startBarePeer(t, { swarm: name, connectTo: [], listen: [] })
      const connection = await peer.mesh.dial(multiaddr(address), { signal: AbortSignal.timeout(10_000) })
      assert.equal(linkKind(connection), kind)
      const stream = await connection.newStream(protocol, { signal: AbortSignal.timeout(5_000) })
      const opened = stream.protocol
      await peer.stop()
      return opened
    }
    for (const protocol of [EXPERT_PROTOCOL, LEDGER_PROTOCOL]) {
      assert.equal(await dial(swarm.name, protocol), protocol)
      await assert.rejects(dial('elsewhere', protocol), /another swarm/, `${at} ${protocol}`)
    }
  }
})
