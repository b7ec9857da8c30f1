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

test('what was written is what is read, kept in memory or not, also after it is opened again', async (t) => {
  const dir = await temporaryDir(t)
  const seed = Date.now() % 2 ** 31
  t.diagnostic(`seed ${seed}`)
  let state = seed
  const random = (below: number): number => (state = (state * 48_271) % 0x7fff_ffff) % below
  // More keys than are kept in memory.
  const keys = Array.from({ length: 700 }, (_, i) => new Key(`/peers/${i}`))
  const expected = new Map<Key, number>()
  for (let round = 0; round < 2; round++) {
    const datastore = await openMeshDatastore(dir)
    for (let i = 0; i < 3_000; i++) {
      const key = keys[random(keys.length)]!
      const kind = random(4)
      if (kind === 0) {
        await datastore.put(key, Uint8Array.of(i % 256))
        expected.set(key, i % 256)
      } else if (kind === 1) {
        await datastore.delete(key)
        expected.delete(key)
      } else if (expected.has(key)) assert.equal((await datastore.get(key))[0], expected.get(key))
      else await assert.rejects(datastore.get(key), { name: 'NotFoundError' })
      assert.equal(await datastore.has(key), expected.has(key))
    }
    await datastore.close()
  }
})
