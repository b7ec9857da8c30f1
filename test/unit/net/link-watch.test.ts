import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Connection } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { LinkWatch } from '../../../node/net/link-watch.ts'

const RELAY = '12D3KooWQ962ngBLemxKYWhLgNSPFhxKZ6WXKXEL9C6MBLzVxrfZ'
const PEERS = ['12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN', '12D3KooWFkVEHUiDZFyeUZZ2cJuKTaJ5Kdrf9Uae2FukpnvcLoRf']

/** A connection of which only what the watch looks at is real. */
function connectionTo(peer: string, address: string): Connection & { reason: string | null } {
  const connection = {
    id: peer + address,
    remotePeer: { toString: () => peer },
    remoteAddr: multiaddr(address),
    status: 'open',
    reason: null as string | null,
  }
  return Object.assign(connection, {
    abort: (error: Error) => {
      connection.status = 'aborted'
      connection.reason = error.message
    },
  }) as unknown as Connection & { reason: string | null }
}

const direct = (peer: string): ReturnType<typeof connectionTo> => connectionTo(peer, `/ip4/52.0.0.1/tcp/1/p2p/${peer}`)
const relayed = (peer: string): ReturnType<typeof connectionTo> =>
  connectionTo(peer, `/ip4/52.0.0.2/tcp/1/p2p/${RELAY}/p2p-circuit/p2p/${peer}`)

interface Scene {
  readonly watch: LinkWatch
  readonly blamed: string[]
  /** Milliseconds that a ping takes; null for one that is never answered. */
  rtt: number | null
}

function scene(connections: readonly Connection[]): Scene {
  const blamed: string[] = []
  const state: { rtt: number | null } = { rtt: 10 }
  const watch = new LinkWatch({
    mesh: { getConnections: () => [...connections], addEventListener: () => {}, removeEventListener: () => {} },
    // A real deadline is seconds away; here it has passed at once.
    ping: async (_, signal) => {
      if (state.rtt !== null) return state.rtt
      Object.defineProperty(signal, 'aborted', { value: true })
      throw new Error('no answer in time')
    },
    onBadRelay: (relay) => blamed.push(relay),
    log: () => {},
  })
  return {
    watch,
    blamed,
    get rtt() {
      return state.rtt
    },
    set rtt(value: number | null) {
      state.rtt = value
    },
  }
}

test('the least of the latest pings is the round trip', async () => {
  const connection = direct(PEERS[0]!)
  const at = scene([connection])
  assert.equal(at.watch.quality(connection), null)
  for (at.rtt of [30, 12, 50]) await at.watch.look()
  assert.deepEqual(at.watch.quality(connection), { rttMs: 12, missed: 0 })
  for (at.rtt of [40, 41, 42, 43]) await at.watch.look()
  assert.equal(at.watch.quality(connection)!.rttMs, 40)
})

test('one ping may be lost, two in a row end the connection', async () => {
  const connection = direct(PEERS[0]!)
  const at = scene([connection])
  for (at.rtt of [10, null, 10, null]) await at.watch.look()
  assert.equal(connection.reason, null)
  at.rtt = null
  await at.watch.look()
  assert.match(connection.reason!, /silent/)
  assert.deepEqual(at.blamed, [])
})

test('a relay is blamed once the circuits of two peers fell silent', async () => {
  const [first, second] = [relayed(PEERS[0]!), relayed(PEERS[1]!)]
  const alone = scene([first])
  alone.rtt = null
  for (let i = 0; i < 2; i++) await alone.watch.look()
  assert.ok(first.reason !== null && alone.blamed.length === 0)
  const both = scene([relayed(PEERS[0]!), second])
  both.rtt = null
  for (let i = 0; i < 2; i++) await both.watch.look()
  assert.deepEqual(both.blamed, [RELAY])
})
