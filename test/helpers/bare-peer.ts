import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { generateKeyPair } from '@libp2p/crypto/keys'
import type { Ed25519PrivateKey } from '@libp2p/interface'
import { multiaddr } from '@multiformats/multiaddr'
import { openGate } from '../../node/swarm/gatekeeper.ts'
import type { Gatekeeper } from '../../node/swarm/gatekeeper.ts'
import { openSwarm } from '../../node/swarm/swarm.ts'
import { createMesh, startMesh } from '../../node/net/mesh.ts'
import type { Mesh } from '../../node/net/mesh.ts'
import { openMeshDatastore } from '../../node/net/mesh-datastore.ts'
import type { Teardown } from './swarm.ts'

/** A libp2p peer of a swarm that serves no Skein protocol yet: what a test makes of it, honest or not. */
export interface BarePeer {
  readonly mesh: Mesh
  readonly peer: string
  readonly privateKey: Ed25519PrivateKey
  /** Stops it without a word; idempotent. */
  readonly stop: () => Promise<void>
}

/** Starts a peer, on loopback over TCP and in an open swarm unless told otherwise, that is connected to the given addresses. It is stopped with the test if not before. */
export async function startBarePeer(
  t: Teardown,
  init: { swarm: string; connectTo: readonly string[]; listen?: readonly string[]; gate?: Gatekeeper },
): Promise<BarePeer> {
  const privateKey = await generateKeyPair('Ed25519')
  const dir = await mkdtemp(join(tmpdir(), 'skein-peer-'))
  const listen = init.listen ?? ['/ip4/127.0.0.1/tcp/0']
  const datastore = await openMeshDatastore(join(dir, 'libp2p'))
  const mesh = await createMesh({
    privateKey,
    gate: init.gate ?? openGate(openSwarm(init.swarm)),
    version: 'test',
    listen,
    bootstrap: [],
    mdns: false,
    datastore,
  })
  const stop = async (): Promise<void> => {
    await mesh.stop()
    await datastore.close()
    await rm(dir, { recursive: true, force: true, maxRetries: 5 })
  }
  t.after(stop)
  await startMesh(mesh, listen)
  for (const address of init.connectTo) await mesh.dial(multiaddr(address), { signal: AbortSignal.timeout(10_000) })
  return { mesh, peer: mesh.peerId.toString(), privateKey, stop }
}
