import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import type { BlobHandlerInit } from '../../../protocols/blob/index.ts'
import { BLOB_LIMITS } from '../../../protocols/blob/index.ts'
import { PeerLostError } from '../../../protocols/wire/errors.ts'
import { blobCid } from '../../../node/model/blob-cid.ts'
import { createBlobStore } from '../../../node/model/blob-store.ts'
import { BlobFetcher } from '../../../node/transfer/blob-fetcher.ts'
import { createBlobReader } from '../../../node/transfer/blob-reader.ts'
import { clientAndHandler, readerOf, sampleBlob } from '../../helpers/blob-stream.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

const BLOB = sampleBlob(1_500_000)
const CID = blobCid(Buffer.from(BLOB.digest, 'hex'))
const FOREVER = new AbortController().signal

type Read = BlobHandlerInit['read']

/** A fetcher into an empty store, from peers that serve as told; a peer that is not named can't be reached. */
async function fetcherOf(t: TestContext, peers: Readonly<Record<string, Read>>) {
  const dir = await temporaryDir(t)
  const store = createBlobStore({ dir })
  const served = new Map<string, number>()
  const events: { event: string; fields: Record<string, unknown> }[] = []
  const fetcher = new BlobFetcher({
    store,
    pace: { turn: async () => {} },
    log: (event, fields) => events.push({ event, fields }),
    links: {
      acquire: async (peer) => {
        const read = peers[peer]
        if (read === undefined) throw new PeerLostError(`${peer} is away`)
        const { client } = await clientAndHandler(t, {
          read: (request) => {
            served.set(peer, (served.get(peer) ?? 0) + 1)
            return read(request)
          },
        })
        return Object.assign(client, { peer })
      },
      release: (client) => client.close(),
    },
  })
  const fetch = (names: readonly string[], signal = FOREVER): Promise<boolean> =>
    fetcher.fetch({ cid: CID, bytes: BLOB.bytes.length, sources: () => names, signal })
  return { dir, store, served, events, fetcher, fetch }
}

const lying: Read = async (request) => {
  const range = await readerOf(BLOB)(request)
  return range === null ? null : { ...range, bytes: range.bytes.map((byte) => byte ^ 1) }
}

test('a blob comes from several peers at once and is whole', async (t) => {
  const { store, served, fetch } = await fetcherOf(t, { a: readerOf(BLOB), b: readerOf(BLOB), c: readerOf(BLOB) })
  await fetch(['a', 'away', 'b', 'c'])
  assert.deepEqual(await readFile(await store.path(CID)), Buffer.from(BLOB.bytes))
  assert.deepEqual([...served.keys()].sort(), ['a', 'b', 'c'])
  assert.equal(
    [...served.values()].reduce((sum, count) => sum + count, 0),
    Math.ceil(BLOB.bytes.length / BLOB_LIMITS.maxRangeBytes),
  )
})

test('a blob that is there is not asked for; two fetches of one blob are one', async (t) => {
  const { served, fetch } = await fetcherOf(t, { a: readerOf(BLOB) })
  await Promise.all([fetch(['a']), fetch(['a'])])
  const asked = served.get('a')
  await fetch(['a'])
  assert.equal(served.get('a'), asked)
})

test('what a peer fails to send comes from another', async (t) => {
  let requests = 0
  const failing: Read = (request) => (++requests > 3 ? Promise.reject(new Error('out of order')) : readerOf(BLOB)(request))
  const { store, fetch } = await fetcherOf(t, { failing, empty: async () => null, good: readerOf(BLOB) })
  await fetch(['failing', 'empty', 'good'])
  assert.equal(await store.has(CID), true)
})

test('peers beyond the first few are asked when those have nothing', async (t) => {
  const none: Read = async () => null
  const { store, fetch } = await fetcherOf(t, { a: none, b: none, c: none, d: none, e: readerOf(BLOB) })
  await fetch(['a', 'b', 'c', 'd', 'e'])
  assert.equal(await store.has(CID), true)
})

test('wrong bytes are found, thrown away, and their sender is not asked again', async (t) => {
  const { dir, store, events, served, fetch } = await fetcherOf(t, { liar: lying, good: readerOf(BLOB) })
  await fetch(['liar', 'good'])
  assert.deepEqual(await readFile(await store.path(CID)), Buffer.from(BLOB.bytes))
  assert.deepEqual(
    events.map(({ event, fields }) => [event, fields['peers']]),
    [
      ['blob.wrong', ['liar', 'good']],
      ['blob.wrong', ['liar']],
      ['blob.fetched', 1],
    ],
  )
  const asked = served.get('liar')!
  await store.delete(CID)
  await fetch(['liar', 'good'])
  assert.equal(served.get('liar'), asked)
  assert.deepEqual(await readdir(join(dir, 'tmp')), [])
})

test('a liar alone gives nothing', async (t) => {
  const { dir, store, fetch } = await fetcherOf(t, { liar: lying })
  await assert.rejects(fetch(['liar']), { name: 'PeerLostError' })
  assert.equal(await store.has(CID), false)
  assert.deepEqual(await readdir(join(dir, 'tmp')), [])
})

test('a fetch that was interrupted goes on where it was', async (t) => {
  const asked: number[] = []
  const interrupt = new AbortController()
  const read: Read = async (request) => {
    asked.push(request.offset)
    if (request.offset >= 600_000 && !interrupt.signal.aborted) interrupt.abort(new Error('enough'))
    return await readerOf(BLOB)(request)
  }
  const { store, fetch } = await fetcherOf(t, { a: read })
  await assert.rejects(fetch(['a'], interrupt.signal), { message: 'enough' })
  assert.equal(await store.has(CID), false)
  asked.length = 0
  await fetch(['a'])
  assert.ok(Math.min(...asked) > 100_000, `began again at ${Math.min(...asked)}`)
  assert.deepEqual(await readFile(await store.path(CID)), Buffer.from(BLOB.bytes))
})

test('nobody, or nobody who has it: the fetch fails and says so', async (t) => {
  const { fetch } = await fetcherOf(t, { empty: async () => null })
  await assert.rejects(fetch([]), { name: 'PeerLostError', message: /no peer is known/ })
  await assert.rejects(fetch(['empty']), { name: 'PeerLostError', message: /notFound/ })
  await assert.rejects(fetch(['away']), { name: 'PeerLostError' })
})

test('a manifest has no known size: it is asked for, within a limit', async (t) => {
  const { store, fetcher } = await fetcherOf(t, { a: readerOf(BLOB) })
  const request = { cid: CID, bytes: null, sources: () => ['a'], signal: FOREVER }
  await assert.rejects(fetcher.fetch({ ...request, maxBytes: 1_000_000 }), { message: /1500000 bytes/ })
  await fetcher.fetch({ ...request, maxBytes: 2_000_000 })
  assert.equal(await store.has(CID), true)
})

test('what a store serves is what it took, and never a corrupt blob', async (t) => {
  const dir = await temporaryDir(t)
  const store = createBlobStore({ dir })
  await store.write(
    (async function* () {
      yield BLOB.bytes
    })(),
  )
  const read = createBlobReader(store)
  const range = await read({ digest: BLOB.digest, offset: 1_499_990, length: 100 })
  assert.deepEqual(range, { blobBytes: 1_500_000, bytes: BLOB.bytes.subarray(1_499_990) })
  assert.deepEqual(await read({ digest: BLOB.digest, offset: 2_000_000, length: 1 }), { blobBytes: 1_500_000, bytes: new Uint8Array(0) })
  assert.equal(await read({ digest: 'ab'.repeat(32), offset: 0, length: 1 }), null)
})
