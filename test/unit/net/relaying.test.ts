import assert from 'node:assert/strict'
import { test } from 'node:test'
import { multiaddr } from '@multiformats/multiaddr'
import { Relaying } from '../../../node/net/relaying.ts'
import type { RelayingComponents } from '../../../node/net/relaying.ts'

const DIRECT = '/ip4/192.0.2.1/tcp/4115'
const RELAYED = '/ip4/192.0.2.2/tcp/4115/p2p-circuit'

function relayingOf(relays: readonly string[], links: readonly (readonly [peer: string, address: string])[]): Relaying {
  const mesh = {
    getConnections: () => links.map(([peer, address]) => ({ remotePeer: peer, remoteAddr: multiaddr(address), status: 'open' })),
    services: {
      relayDesk: { held: () => relays.map((relay) => ({ relay })) },
      reachability: { reach: 'private' },
      relay: { stats: () => ({}) },
    },
  }
  return new Relaying({ mesh, records: {}, log: () => {} } as unknown as RelayingComponents, { mode: 'off', swarm: 'test' })
}

test('a node is relayed when most of its peers have no better link than through a relay', () => {
  assert.equal(relayingOf([], [['ada', RELAYED]]).isRelayed(), false, 'without a relay of its own it was dialled or dialled itself')
  assert.equal(relayingOf(['relay'], [['relay', DIRECT]]).isRelayed(), false, 'the link to the relay says nothing')
  const ada = ['ada', RELAYED] as const
  assert.equal(relayingOf(['relay'], [['relay', DIRECT], ada]).isRelayed(), true)
  assert.equal(relayingOf(['relay'], [ada, ['ada', DIRECT]]).isRelayed(), false, 'a direct link beside it is used')
  assert.equal(relayingOf(['relay'], [ada, ['bob', DIRECT]]).isRelayed(), false, 'half is not most')
  assert.equal(relayingOf(['relay'], [ada, ['bob', DIRECT], ['eve', RELAYED]]).isRelayed(), true)
})
