import assert from 'node:assert/strict'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import type { Multiaddr } from '@multiformats/multiaddr'
import { Reachability } from '../../../node/net/reachability.ts'
import type { ReachabilityComponents } from '../../../node/net/reachability.ts'
import { until } from '../../helpers/until.ts'

const INTERVAL_MS = 5

test('connected peers are asked about a public address as soon as there is one, and about the same one only once', async (t) => {
  const addresses: { multiaddr: Multiaddr; verified: boolean; expires: number; type: string }[] = []
  const add = (address: string, verified = false): void =>
    void addresses.push({ multiaddr: multiaddr(address), verified, expires: 0, type: 'ip-mapping' })
  const asked: string[] = []
  let looks = 0
  const components = {
    addressManager: {
      getAddresses: () => addresses.filter(({ verified }) => verified).map((address) => address.multiaddr),
      getAddressesWithMetadata: () => (looks++, addresses),
    },
    connectionManager: {
      getConnections: () => ['/ip4/52.0.0.1/tcp/1', '/ip4/192.168.1.9/tcp/1'].map((address) => ({ remoteAddr: multiaddr(address) })),
    },
    identify: { identify: async ({ remoteAddr }: { remoteAddr: Multiaddr }) => void asked.push(remoteAddr.toString()) },
  }
  const reachability = new Reachability(components as unknown as ReachabilityComponents, {
    intervalMs: INTERVAL_MS,
    machineHosts: () => [],
  })
  const lookAgain = async (): Promise<void> => {
    const before = looks
    await until(() => looks > before + 6, { what: 'some more looks', intervalMs: INTERVAL_MS })
  }
  reachability.afterStart()
  t.after(() => reachability.stop())
  add('/ip4/192.168.1.2/tcp/4115')
  await lookAgain()
  assert.deepEqual(asked, [])
  add('/ip4/52.0.0.12/tcp/4115')
  await until(() => asked.length > 0, { what: 'the question' })
  await lookAgain()
  // A peer on the same network could not tell how strangers fare.
  assert.deepEqual(asked, ['/ip4/52.0.0.1/tcp/1'])
  add('/ip4/52.0.0.12/udp/4115/quic-v1')
  await until(() => asked.length === 2, { what: 'the question about another address' })
  assert.equal(reachability.reach, 'private')
})
