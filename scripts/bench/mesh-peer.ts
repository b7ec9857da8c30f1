import { join } from 'node:path'
import { generateKeyPair } from '@libp2p/crypto/keys'
import { openGate } from '../../node/swarm/gatekeeper.ts'
import { openSwarm } from '../../node/swarm/swarm.ts'
import { createMesh, startMesh } from '../../node/net/mesh.ts'
import type { Mesh } from '../../node/net/mesh.ts'
import { openMeshDatastore } from '../../node/net/mesh-datastore.ts'
import { VERSION } from '../../node/version.ts'

const LISTEN = Object.freeze(['/ip4/127.0.0.1/tcp/0'])

export interface MeshPeer {
  readonly mesh: Mesh
  stop(): Promise<void>
}

/** A libp2p node with exactly the product's settings and no Skein on it yet; keeps its things in `dir`. */
export async function startMeshPeer(dir: string, name: string): Promise<MeshPeer> {
  const datastore = await openMeshDatastore(join(dir, name))
  const mesh = await createMesh({
    privateKey: await generateKeyPair('Ed25519'),
    gate: openGate(openSwarm('bench-calls')),
    version: VERSION,
    listen: LISTEN,
    bootstrap: [],
    mdns: false,
    datastore,
  })
  await startMesh(mesh, LISTEN)
  return {
    mesh,
    stop: async () => {
      await mesh.stop()
      await datastore.close()
    },
  }
}
