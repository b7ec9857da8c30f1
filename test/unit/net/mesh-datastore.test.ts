import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Key } from 'interface-datastore'
import { openMeshDatastore } from '../../../node/net/mesh-datastore.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

test('what this peer provided in a former run is forgotten, what others provide is not', async (t) => {
  const datastore = await openMeshDatastore(await temporaryDir(t))
  t.after(() => datastore.close())
  const [own, other, peerRecord] = ['/dht/provider/aaa/me', '/dht/provider/aaa/you', '/peers/me'].map((key) => new Key(key))
  for (const key of [own!, other!, peerRecord!]) await datastore.put(key, Uint8Array.of(1))
  await datastore.forgetProvided('me')
  assert.deepEqual(await Promise.all([own!, other!, peerRecord!].map((key) => datastore.has(key))), [false, true, true])
})
