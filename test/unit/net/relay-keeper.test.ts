import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { setImmediate } from 'node:timers/promises'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { multiaddr } from '@multiformats/multiaddr'
import { RelayKeeper } from '../../../node/net/relay-keeper.ts'
import type { RelayKeeperComponents } from '../../../node/net/relay-keeper.ts'

const PING_EVERY_MS = 3_000
const PINGS = 6

/** Why a node with one reservation left its relay while it was pinged some times. */
async function leftBecause(t: TestContext, ping: (signal: AbortSignal) => Promise<number>): Promise<string[]> {
  // Node 24 knows the second one, its types do not yet.
  t.mock.timers.enable({ apis: ['setTimeout', 'AbortSignal.timeout' as 'setTimeout'] })
  const relay = peerIdFromPrivateKey(await generateKeyPair('Ed25519'))
  const reasons: string[] = []
  let pings = 0
  const connection = {
    remotePeer: relay,
    remoteAddr: multiaddr('/ip4/192.0.2.1/tcp/1'),
    abort: (error: Error) => reasons.push(error.message),
  }
  const components = {
    desk: { held: () => [{ relay, connectionId: '1' }], onLost: null },
    mesh: {
      services: {
        ping: {
          ping: async (_: unknown, { signal }: { signal: AbortSignal }) => {
            pings++
            return await ping(signal)
          },
        },
      },
      getConnections: () => [connection],
    },
    needsRelays: () => false,
    log: () => {},
  }
  const keeper = new RelayKeeper(components as unknown as RelayKeeperComponents)
  keeper.start()
  t.after(() => keeper.stop())
  for (let i = 0; i < PINGS; i++) {
    t.mock.timers.tick(PING_EVERY_MS)
    await setImmediate()
    await setImmediate()
  }
  assert.ok(pings >= 2, `${pings} pings`)
  return reasons
}

test('a relay that answers no pings is left', async (t) => {
  const silent = (signal: AbortSignal): Promise<number> =>
    new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
  assert.match((await leftBecause(t, silent))[0]!, /did not answer 2 pings/)
})

test('a relay stays when libp2p refuses to send a second ping at the same time', async (t) => {
  const refused = async (): Promise<number> => {
    throw new Error('too many outbound protocol streams')
  }
  assert.deepEqual(await leftBecause(t, refused), [])
})
