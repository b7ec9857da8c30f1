import assert from 'node:assert/strict'
import { readdir, readFile, stat, utimes, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { isBlobCid } from '../../../node/model/blob-cid.ts'
import { createBlobStore } from '../../../node/model/blob-store.ts'
import type { PathOptions } from '../../../node/model/blob-store.ts'
import { fileState } from '../../../node/model/verified-blobs.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

/** sha-256 of "hello" as a CIDv1, raw, base32. */
const HELLO = 'bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq'

async function* chunks(...parts: readonly string[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) yield Buffer.from(part)
}

test('stores a blob under the hash of its bytes, whatever the chunks', async (t) => {
  const store = createBlobStore({ dir: await temporaryDir(t) })
  assert.equal(await store.has(HELLO), false)
  assert.deepEqual(await store.write(chunks('hel', '', 'lo')), { cid: HELLO, bytes: 5 })
  assert.deepEqual(await store.write(chunks('hello')), { cid: HELLO, bytes: 5 })
  assert.equal(await store.has(HELLO), true)
  assert.equal(await readFile(await store.path(HELLO), 'utf8'), 'hello')
  await store.delete(HELLO)
  await store.delete(HELLO)
  assert.equal(await store.has(HELLO), false)
  await assert.rejects(store.path(HELLO), { name: 'ModelError', message: /is missing .*pack the model again/ })
})

test('concurrent writers of one blob in stores that share a directory leave one good file and nothing else', async (t) => {
  const dir = await temporaryDir(t)
  const text = 'x'.repeat(100_000)
  const writes = Array.from({ length: 12 }, () => createBlobStore({ dir }).write(chunks(text, text)))
  const cids = new Set((await Promise.all(writes)).map(({ cid }) => cid))
  assert.equal(cids.size, 1)
  const [cid] = [...cids]
  assert.deepEqual(new Set(await readdir(dir)), new Set([cid, 'tmp']))
  assert.deepEqual(await readdir(join(dir, 'tmp')), [])
  assert.equal(await createBlobStore({ dir }).path(cid!), join(dir, cid!))
})

test('finds a corrupt blob, puts it aside, and takes it again', async (t) => {
  const dir = await temporaryDir(t)
  await createBlobStore({ dir }).write(chunks('hello'))
  await writeFile(join(dir, HELLO), 'jello')
  const store = createBlobStore({ dir })
  const [first, second] = await Promise.allSettled([store.path(HELLO), store.path(HELLO)])
  for (const result of [first, second]) {
    assert.equal(result.status, 'rejected')
    assert.match(String(result.reason), /ModelError: blob bafk\S+ is corrupt.*put aside as .*\.corrupt.*Pack the model again/)
  }
  assert.equal(await readFile(join(dir, `${HELLO}.corrupt`), 'utf8'), 'jello')
  assert.equal(await store.has(HELLO), false)
  await store.write(chunks('hello'))
  assert.equal(await store.path(HELLO), join(dir, HELLO))
})

test('checks again when a file changed after it was found good', async (t) => {
  const dir = await temporaryDir(t)
  const store = createBlobStore({ dir })
  await store.write(chunks('hello'))
  await store.path(HELLO)
  await writeFile(join(dir, HELLO), 'jello')
  await utimes(join(dir, HELLO), 1, 1)
  await assert.rejects(store.path(HELLO), { name: 'ModelError', message: /corrupt/ })
})

test('remembers over restarts which files were found good, for a week', async (t) => {
  const dir = await temporaryDir(t)
  const { cid } = await createBlobStore({ dir }).write(chunks('x'.repeat(2 ** 20)))
  const file = join(dir, cid)
  const note = join(dir, 'verified', cid)
  const pathInNewProcess = (options?: PathOptions): Promise<string> => createBlobStore({ dir }).path(cid, options)
  await pathInNewProcess()
  await assert.rejects(readFile(note), { code: 'ENOENT' }, 'the file had changed a moment before')
  t.mock.timers.enable({ apis: ['Date'], now: Date.now() + 120_000 })
  await pathInNewProcess()
  assert.equal(await readFile(note, 'utf8'), fileState(await stat(file)))

  const bad = Buffer.alloc(2 ** 20)
  await writeFile(file, bad)
  await assert.rejects(pathInNewProcess(), { name: 'ModelError', message: /corrupt/ }, 'the file has changed since')

  // As a disk may change bits: the note is of the file as it is.
  const changeSilently = async (): Promise<void> => {
    await writeFile(file, bad)
    await writeFile(note, fileState(await stat(file)))
  }
  await changeSilently()
  assert.equal(await pathInNewProcess(), file)
  await assert.rejects(pathInNewProcess({ fresh: true }), { name: 'ModelError', message: /corrupt/ }, 'asked to look')
  await changeSilently()
  await utimes(note, Date.now() / 1000 + 60, Date.now() / 1000 + 60)
  await assert.rejects(pathInNewProcess(), { name: 'ModelError', message: /corrupt/ }, 'a note of the future')
  await changeSilently()
  t.mock.timers.tick(8 * 24 * 60 * 60 * 1000)
  await assert.rejects(pathInNewProcess(), { name: 'ModelError', message: /corrupt/ }, 'a week later')
  await createBlobStore({ dir }).delete(cid)
  await assert.rejects(readFile(note), { code: 'ENOENT' })
})

test('keeps nothing of a blob with another hash, a failed source, too many bytes or an abort', async (t) => {
  const dir = await temporaryDir(t)
  const store = createBlobStore({ dir })
  await assert.rejects(store.write(chunks('jello'), { expected: HELLO }), { name: 'ModelError', message: /wrong content/ })
  const failing = (async function* () {
    yield Buffer.from('hel')
    throw new Error('source broke')
  })()
  await assert.rejects(store.write(failing), { message: 'source broke' })
  await assert.rejects(store.write(chunks('hel', 'lo'), { maxBytes: 4 }), { name: 'ModelError', message: /larger than 4 bytes/ })
  const abort = new AbortController()
  const endless = (async function* () {
    for (let i = 0; ; i++) {
      if (i === 3) abort.abort(new Error('enough'))
      yield Buffer.from('x')
    }
  })()
  await assert.rejects(store.write(endless, { signal: abort.signal }), { message: 'enough' })
  await assert.rejects(store.write(chunks('hello'), { signal: abort.signal }), { message: 'enough' })
  assert.deepEqual(await readdir(join(dir, 'tmp')), [])
  assert.deepEqual(await readdir(dir), ['tmp'])
})

test('removes unfinished files of processes that died, and leaves fresh ones', async (t) => {
  const dir = await temporaryDir(t)
  await createBlobStore({ dir }).write(chunks('hello'))
  await writeFile(join(dir, 'tmp', 'old'), 'x')
  await utimes(join(dir, 'tmp', 'old'), 1, 1)
  await writeFile(join(dir, 'tmp', 'fresh'), 'x')
  await createBlobStore({ dir }).write(chunks('hello'))
  assert.deepEqual(await readdir(join(dir, 'tmp')), ['fresh'])
})

test('takes nothing but canonical blob ids for file names', async (t) => {
  const store = createBlobStore({ dir: await temporaryDir(t) })
  const bad = [
    '',
    '../../etc/passwd',
    'QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG',
    HELLO.toUpperCase(),
    `${HELLO}/..`,
    'x'.repeat(10_000),
  ]
  for (const cid of bad) {
    assert.equal(isBlobCid(cid), false, cid.slice(0, 60))
    await assert.rejects(store.path(cid), { name: 'ModelError', message: /not a blob id/ })
    await assert.rejects(store.delete(cid), { name: 'ModelError' })
  }
})
