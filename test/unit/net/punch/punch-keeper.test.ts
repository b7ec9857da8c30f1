import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { setImmediate as turn } from 'node:timers/promises'
import type { Connection } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { PunchKeeper } from '../../../../node/net/punch/punch-keeper.ts'
import type { PunchKeeperComponents } from '../../../../node/net/punch/punch-keeper.ts'
import type { PunchedLink } from '../../../../node/net/punch/puncher.ts'

const PEER = '12D3KooWJwn3quSMNFkq6M2f11p3ppFhysksGu65aSsRyNz3CqAm'
const RELAYED = `/ip4/192.0.2.1/tcp/1/p2p/${PEER}/p2p-circuit/p2p/${PEER}`
const DIRECT = `/ip4/192.0.2.2/udp/1/quic-v1/p2p/${PEER}`
const QUIC: PunchedLink = { kind: 'quic', ms: 100 }

/** A keeper whose punches end as the test says; time is the test's. */
function setUp(t: TestContext, outcome: () => readonly PunchedLink[] | Error) {
  t.mock.timers.enable({ apis: ['setTimeout'] })
  const mesh = Object.assign(new EventTarget(), { connections: [] as Connection[], getConnections: (): Connection[] => mesh.connections })
  let punches = 0
  const puncher = {
    isPunching: () => false,
    punch: async () => {
      punches++
      const result = outcome()
      return await (result instanceof Error ? Promise.reject(result) : Promise.resolve(result))
    },
  }
  const keeper = new PunchKeeper({ mesh: mesh as unknown as PunchKeeperComponents['mesh'], puncher, log: () => {} })
  keeper.start()
  t.after(() => keeper.stop())
  const connect = (address: string, direction: 'inbound' | 'outbound'): Connection => {
    const connection = {
      remotePeer: { toString: () => PEER },
      remoteAddr: multiaddr(address),
      status: 'open',
      direction,
    } as unknown as Connection
    mesh.connections.push(connection)
    mesh.dispatchEvent(new CustomEvent('connection:open', { detail: connection }))
    return connection
  }
  const disconnect = (connection: Connection): void => {
    mesh.connections = mesh.connections.filter((other) => other !== connection)
    mesh.dispatchEvent(new CustomEvent('connection:close', { detail: connection }))
  }
  /** Lets time pass, and what it sets off happen. */
  const pass = async (ms: number): Promise<number> => {
    t.mock.timers.tick(ms)
    for (let i = 0; i < 5; i++) await turn()
    return punches
  }
  return { connect, disconnect, pass, keeper }
}

test('who dialled over the relay punches at once, who was dialled waits for the other', async (t) => {
  const { connect, pass } = setUp(t, () => [QUIC])
  connect(RELAYED, 'inbound')
  assert.equal(await pass(10_000), 0)
  connect(RELAYED, 'outbound')
  assert.equal(await pass(100), 1)
})

test('a punch that failed is tried again, ever later; one that succeeded is not', async (t) => {
  let outcome: readonly PunchedLink[] | Error = []
  const { connect, pass } = setUp(t, () => outcome)
  connect(RELAYED, 'outbound')
  assert.equal(await pass(100), 1)
  assert.equal(await pass(2_900), 1)
  assert.equal(await pass(100), 2)
  outcome = new Error('refused')
  assert.equal(await pass(15_000), 3)
  outcome = [QUIC]
  assert.equal(await pass(59_000), 3)
  assert.equal(await pass(1_000), 4)
  assert.equal(await pass(3_600_000), 4)
})

test('peers with a direct link are left alone, until it breaks', async (t) => {
  const { connect, disconnect, pass } = setUp(t, () => [QUIC])
  const direct = connect(DIRECT, 'outbound')
  connect(RELAYED, 'outbound')
  assert.equal(await pass(10_000), 0)
  disconnect(direct)
  assert.equal(await pass(1_000), 1)
})

test('a peer that left, and a keeper that stopped, are not punched', async (t) => {
  const { connect, disconnect, pass, keeper } = setUp(t, () => [])
  disconnect(connect(RELAYED, 'outbound'))
  assert.equal(await pass(10_000), 0)
  connect(RELAYED, 'outbound')
  keeper.stop()
  assert.equal(await pass(10_000), 0)
})
