import type { TestContext } from 'node:test'
import { createHash } from 'node:crypto'
import type { Stream } from '@libp2p/interface'
import { streamPair } from '@libp2p/utils'
import { BlobClient } from '../../protocols/blob/client.ts'
import { createBlobHandler } from '../../protocols/blob/handler.ts'
import type { BlobHandlerInit } from '../../protocols/blob/handler.ts'
import { frameEnd } from './expert-stream.ts'

/** Bytes that differ everywhere, and their SHA-256 digest. */
export function sampleBlob(length: number, seed = 1): { readonly digest: string; readonly bytes: Uint8Array } {
  const bytes = new Uint8Array(length)
  for (let i = 0, state = seed >>> 0; i < length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    bytes[i] = state >>> 24
  }
  return { digest: createHash('sha256').update(bytes).digest('hex'), bytes }
}

/** Serves ranges of the given blobs. */
export function readerOf(...blobs: readonly { readonly digest: string; readonly bytes: Uint8Array }[]): BlobHandlerInit['read'] {
  return async ({ digest, offset, length }) => {
    const blob = blobs.find((entry) => entry.digest === digest)
    return blob === undefined ? null : { blobBytes: blob.bytes.length, bytes: blob.bytes.subarray(offset, offset + length) }
  }
}

async function streams(t: TestContext): Promise<[Stream, Stream]> {
  const pair = await streamPair({ delay: 0 })
  t.after(() => pair.forEach((stream) => stream.abort(new Error('the test ended'))))
  return pair
}

/** The real client before the real handler. */
export async function clientAndHandler(t: TestContext, init: Partial<BlobHandlerInit>) {
  const [near, far] = await streams(t)
  const violations: Error[] = []
  const failures: Error[] = []
  const handler = createBlobHandler({
    read: async () => null,
    turn: async () => {},
    onViolation: (_peer, error) => violations.push(error),
    onFailure: (_peer, error) => failures.push(error),
    ...init,
  })
  handler(far, 'asker')
  return { client: new BlobClient(near, 'server', () => {}), violations, failures, near, far }
}

/** The real client before a server that the test plays by hand. */
export async function clientAndPuppet(t: TestContext) {
  const [near, far] = await streams(t)
  const closed: Error[] = []
  return { client: new BlobClient(near, 'server', (error) => closed.push(error)), closed, ...frameEnd(far) }
}

/** The real handler before an asker that the test plays by hand. */
export async function handlerAndPuppet(t: TestContext, init: Partial<BlobHandlerInit> = {}) {
  const [near, far] = await streams(t)
  const violations: Error[] = []
  createBlobHandler({ read: async () => null, turn: async () => {}, onViolation: (_peer, error) => violations.push(error), ...init })(
    far,
    'asker',
  )
  return { ...frameEnd(near), violations, serverStream: far }
}
