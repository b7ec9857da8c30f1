import assert from 'node:assert/strict'
import { test } from 'node:test'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { PeerId } from '@libp2p/interface'
import { peerIdFromPrivateKey } from '@libp2p/peer-id'
import { Greeter } from '../../../node/net/greeter.ts'

type GreeterMesh = ConstructorParameters<typeof Greeter>[0]['mesh']

/** Records dials; each ends when the test says so. */
class RecordingMesh extends EventTarget {
  readonly dials: { peer: string; signal: AbortSignal; end: (error?: Error) => void }[] = []
  readonly connected: string[] = []

  dial(peer: PeerId, options: { signal: AbortSignal }): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    this.dials.push({ peer: peer.toString(), signal: options.signal, end: (error) => (error === undefined ? resolve() : reject(error)) })
    return promise
  }

  getConnections(peer?: PeerId): string[] {
    return peer === undefined ? this.connected : this.connected.filter((entry) => entry === peer.toString())
  }

  discover(id: PeerId): void {
    this.dispatchEvent(new CustomEvent('peer:discovery', { detail: { id, multiaddrs: [] } }))
  }
}

async function setUp() {
  const mesh = new RecordingMesh()
  const events: string[] = []
  const greeter = new Greeter({ mesh: mesh as unknown as GreeterMesh, log: (event) => events.push(event) })
  const peers = await Promise.all(Array.from({ length: 12 }, async () => peerIdFromPrivateKey(await generateKeyPair('Ed25519'))))
  return { mesh, greeter, events, peers }
}

test('a discovered peer is dialled once while the dial is under way, and not when it is connected', async () => {
  const { mesh, greeter, peers } = await setUp()
  greeter.start()
  mesh.discover(peers[0]!)
  mesh.discover(peers[0]!)
  assert.deepEqual(
    mesh.dials.map(({ peer }) => peer),
    [peers[0]!.toString()],
  )
  mesh.connected.push(peers[1]!.toString())
  mesh.discover(peers[1]!)
  assert.equal(mesh.dials.length, 1)
  greeter.stop()
})

test('only so many dials are under way at once; a failed one is logged and makes room', async () => {
  const { mesh, greeter, events, peers } = await setUp()
  greeter.start()
  for (const peer of peers) mesh.discover(peer)
  assert.equal(mesh.dials.length, 8)
  mesh.dials[0]!.end(new Error('nobody there'))
  await new Promise((resolve) => setImmediate(resolve))
  assert.deepEqual(events, ['peer.unreachable'])
  mesh.discover(peers[11]!)
  assert.equal(mesh.dials.length, 9)
  greeter.stop()
})

test('a node with many connections greets no more', async () => {
  const { mesh, greeter, peers } = await setUp()
  greeter.start()
  mesh.connected.push(...Array.from({ length: 64 }, (_, i) => `peer ${i}`))
  mesh.discover(peers[0]!)
  assert.equal(mesh.dials.length, 0)
  greeter.stop()
})

test('stopping aborts the dials under way and ends listening', async () => {
  const { mesh, greeter, peers } = await setUp()
  greeter.start()
  mesh.discover(peers[0]!)
  greeter.stop()
  assert.equal(mesh.dials[0]!.signal.aborted, true)
  mesh.discover(peers[1]!)
  assert.equal(mesh.dials.length, 1)
})
