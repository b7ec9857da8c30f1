/** Entry of an engine thread. Sessions live here, because running one blocks its thread. */
import { parentPort } from 'node:worker_threads'
import { EngineSessions } from './engine-sessions.ts'
import type { WorkerEnvelope, WorkerReply } from './worker-messages.ts'

if (parentPort === null) throw new Error('worker.ts is started by the engine, as a worker thread')
const port = parentPort
const sessions = new EngineSessions()

port.on('message', (envelope: WorkerEnvelope) => void serve(envelope))

async function serve(envelope: WorkerEnvelope): Promise<void> {
  const { id } = envelope
  try {
    const result = await sessions.handle(envelope)
    if (id === 0) return
    if (result === null) answer(id)
    else answer({ id, error: null, result }, [result.buffer as ArrayBuffer])
  } catch (error) {
    if (id !== 0) answer({ id, error: error instanceof Error ? error.message : String(error), result: null })
  }
  if (envelope.op === 'stop') port.close()
}

function answer(reply: WorkerReply, transfer: ArrayBuffer[] = []): void {
  port.postMessage(reply, transfer)
}
