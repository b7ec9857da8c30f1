/** A thread that turns blob specifications into blobs of a store, one at a time. Messages: see pack-pool.ts. */
import { parentPort, workerData } from 'node:worker_threads'
import { ModelError } from '../errors.ts'
import { createBlobStore } from './blob-store.ts'
import { encodeBlob } from './blob-spec.ts'
import type { WorkerReply, WorkerRequest } from './pack-pool.ts'
import { TensorReader } from './tensor-reader.ts'

const port = parentPort
if (port === null) throw new Error('pack-worker.ts runs as a worker thread')
const store = createBlobStore({ dir: (workerData as { readonly storeDir: string }).storeDir })
const reader = new TensorReader()
const abort = new AbortController()
const reply = (message: WorkerReply): void => port.postMessage(message)

port.on('message', (request: WorkerRequest) => {
  if (request.kind === 'stop') abort.abort(new ModelError('packing was stopped'))
  else void write(request)
})

async function write({ spec }: Extract<WorkerRequest, { kind: 'write' }>): Promise<void> {
  try {
    const chunks = encodeBlob(spec, reader, (bytes) => reply({ kind: 'read', bytes }))
    const { cid, bytes } = await store.write(chunks, { signal: abort.signal })
    reply({ kind: 'written', cid, bytes })
  } catch (error) {
    reply({ kind: 'failed', name: (error as Error).name, message: (error as Error).message, stack: (error as Error).stack ?? '' })
  }
}
