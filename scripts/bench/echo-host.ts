/**
 * Entry of the other process of expert-calls.ts and transfer.ts: a host that sends every call's rows back, and serves blobs as the product
 * does. `echo-host.ts <dir> [blobs] [bytes]` tells its parent its addresses and what it has. Ends with its parent.
 */
import { randomBytes } from 'node:crypto'
import { join } from 'node:path'
import { createExpertHandler, EXPERT_PROTOCOL } from '../../protocols/expert/index.ts'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { BlobTransfer } from '../../node/transfer/blob-transfer.ts'
import { startMeshPeer } from './mesh-peer.ts'

/** What the parent is told. */
export interface EchoHostReady {
  readonly addresses: readonly string[]
  readonly cids: readonly string[]
}

/** A host counts as busy for so long after a call, as in the product. */
const BUSY_FOR_MS = 500
const CHUNK_BYTES = 1 << 20

async function main(dir: string, blobs: number, bytes: number): Promise<EchoHostReady> {
  const peer = await startMeshPeer(dir, 'echo-host')
  const { mesh } = peer
  let servedAt = -Infinity
  const handler = createExpertHandler({
    serve: async ({ rowType, rows, width, x }) => {
      servedAt = performance.now()
      return { status: 'ok', rowType, rows, width, data: x, queueUs: 0, computeUs: 0 }
    },
  })
  await mesh.handle(EXPERT_PROTOCOL, (stream, connection) => handler(stream, connection.remotePeer.toString()))
  const store = createBlobStore({ dir: join(dir, 'echo-blobs') })
  const transfer = new BlobTransfer({ mesh, store, isBusy: () => performance.now() - servedAt < BUSY_FOR_MS, log: () => {} })
  await transfer.start()
  process.on('disconnect', () => void peer.stop().finally(() => process.exit(0)))
  const cids: string[] = []
  for (let i = 0; i < blobs; i++) {
    const { cid } = await store.write(randomChunks(bytes))
    // So that its hash is checked before the bench and not in it.
    await store.path(cid)
    cids.push(cid)
  }
  return { addresses: mesh.getMultiaddrs().map((address) => address.toString()), cids }
}

async function* randomChunks(bytes: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes; at += CHUNK_BYTES) yield randomBytes(Math.min(CHUNK_BYTES, bytes - at))
}

const [dir, blobs = '0', bytes = '0'] = process.argv.slice(2)
if (import.meta.main) {
  if (dir === undefined || process.send === undefined) throw new Error('echo-host.ts is started by expert-calls.ts and transfer.ts')
  process.send(await main(dir, Number(blobs), Number(bytes)))
}
