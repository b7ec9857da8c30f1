/** Blobs between real nodes over real links. */
import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { BlobTransfer } from '../../node/transfer/blob-transfer.ts'
import { startBarePeer } from '../helpers/bare-peer.ts'
import { createSwarm } from '../helpers/swarm.ts'

test('a peer without the model fetches its manifest and every blob from the nodes that have it', { timeout: 60_000 }, async (t) => {
  const swarm = await createSwarm(t)
  const nodes = [await swarm.start(), await swarm.start()]
  const { mesh } = await startBarePeer(t, { swarm: swarm.name, connectTo: nodes.flatMap((node) => node.addresses) })
  const store = createBlobStore({ dir: join(swarm.dir, 'newcomer') })
  const transfer = new BlobTransfer({ mesh, store, isBusy: () => false, log: () => {} })
  await transfer.start()
  t.after(() => transfer.stop())
  const fetch = (cid: string, bytes: number | null): Promise<boolean> =>
    transfer.fetcher.fetch({ cid, bytes, sources: () => nodes.map(({ peer }) => peer), signal: AbortSignal.timeout(30_000) })
  await fetch(swarm.model.id, null)
  const { blobs } = swarm.model.manifest
  await Promise.all(blobs.map(({ cid, bytes }) => fetch(cid, bytes)))
  for (const { cid } of [{ cid: swarm.model.id }, ...blobs]) {
    assert.deepEqual(await readFile(await store.path(cid)), await readFile(join(swarm.storeDir, cid)))
  }
  const distinct = new Map(blobs.map(({ cid, bytes }) => [cid, bytes]))
  assert.ok(transfer.fetcher.fetchedBytes > [...distinct.values()].reduce((sum, bytes) => sum + bytes, 0))
})
