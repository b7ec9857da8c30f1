import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { readdir, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { createBlobStore } from '../../../node/model/blob-store.ts'
import { EMBEDDED_ID, ensureEmbeddedModel } from '../../../node/model/embedded.ts'
import { listModels, openModel } from '../../../node/model/library.ts'
import { acquireLock } from '../../../node/model/lock-file.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

const run = promisify(execFile)
/** Far above what packing takes; only a hang reaches it. */
const PROCESS_TIMEOUT_MS = 60_000

test('packs the embedded model on first use, finds it afterwards, and repairs it', async (t) => {
  const dir = await temporaryDir(t)
  const model = await ensureEmbeddedModel(createBlobStore({ dir }))
  assert.equal(model.id, EMBEDDED_ID, 'EMBEDDED_ID in node/model/embedded.ts is what packing gives')
  assert.deepEqual(model.manifest.quant, { kind: 'f32', block: 0 })
  assert.equal((await openModel(createBlobStore({ dir }), 'ember')).id, EMBEDDED_ID)
  const [corrupt, missing] = model.manifest.blobs.filter((blob) => blob.role === 'experts')
  await writeFile(join(dir, corrupt!.cid), 'rubbish')
  await rm(join(dir, missing!.cid))
  await rm(join(dir, 'models', 'ember.json'))
  const store = createBlobStore({ dir })
  assert.equal((await ensureEmbeddedModel(store)).id, EMBEDDED_ID)
  for (const { cid } of [corrupt!, missing!]) assert.equal(await store.path(cid), join(dir, cid))
  assert.deepEqual(
    (await listModels(store)).map(({ name }) => name),
    ['ember'],
  )
  const again = performance.now()
  await ensureEmbeddedModel(store)
  t.diagnostic(`found again in ${(performance.now() - again).toFixed()} ms`)
})

test('four processes that share a store all get it', async (t) => {
  const dir = await temporaryDir(t)
  const module = (path: string): string => new URL(`../../../node/model/${path}`, import.meta.url).href
  const script = `
    const { createBlobStore } = await import(${JSON.stringify(module('blob-store.ts'))})
    const { ensureEmbeddedModel } = await import(${JSON.stringify(module('embedded.ts'))})
    console.log((await ensureEmbeddedModel(createBlobStore({ dir: ${JSON.stringify(dir)} }))).id)`
  const processes = Array.from({ length: 4 }, () =>
    run(process.execPath, ['--input-type=module', '-e', script], { timeout: PROCESS_TIMEOUT_MS }),
  )
  assert.deepEqual(
    (await Promise.all(processes)).map(({ stdout }) => stdout.trim()),
    Array.from({ length: 4 }, () => EMBEDDED_ID),
  )
  assert.deepEqual(await readdir(join(dir, 'tmp')), [])
  assert.equal((await readdir(dir)).includes('ember.lock'), false)
})

test('stops when asked to', async (t) => {
  const dir = await temporaryDir(t)
  const signal = AbortSignal.abort(new Error('stopping'))
  await assert.rejects(ensureEmbeddedModel(createBlobStore({ dir }), { signal }), { message: 'stopping' })
})

test('a lock is held by one, waited for, taken over from the dead, and never waited for beyond its time', async (t) => {
  const path = join(await temporaryDir(t), 'lock')
  const release = await acquireLock(path, 10_000)
  const order: string[] = []
  const second = acquireLock(path, 10_000).then(async (releaseSecond) => {
    order.push('second')
    await releaseSecond()
  })
  order.push('first')
  await release()
  await second
  assert.deepEqual(order, ['first', 'second'])
  // Larger than any process id.
  await writeFile(path, '999999999')
  await (
    await acquireLock(path, 10_000)
  )()
  await writeFile(path, String(process.pid))
  await (
    await acquireLock(path, 60)
  )()
  const abort = new AbortController()
  const waiting = acquireLock(path, 10_000, abort.signal)
  abort.abort(new Error('stopping'))
  await assert.rejects(waiting, { message: 'stopping' })
})
