/**
 * Entry of an engine thread: takes requests one after the other, in order, and answers each.
 * Sessions live here, because running one blocks its thread.
 */
import { parentPort } from 'node:worker_threads'
import type { BlockRef, WorkerEnvelope, WorkerReply, WorkerRequest } from './worker-messages.ts'
import { WorkerExperts } from './worker-experts.ts'
import { WorkerTrunk } from './worker-trunk.ts'

if (parentPort === null) throw new Error('worker.ts is started by the engine, as a worker thread')
const port = parentPort

const trunks = new Map<number, WorkerTrunk>()
const expertSets = new Map<number, WorkerExperts>()
const blocks = new Map<number, SharedArrayBuffer>()
const queue: WorkerEnvelope[] = []
let busy = false

port.on('message', (envelope: WorkerEnvelope) => {
  queue.push(envelope)
  if (!busy) void drain()
})

async function drain(): Promise<void> {
  busy = true
  for (let next = queue.shift(); next !== undefined; next = queue.shift()) {
    const { id } = next
    try {
      const result = await handle(next)
      if (id === 0) continue
      if (result === null) answer(id)
      else answer({ id, error: null, result }, [result.buffer as ArrayBuffer])
    } catch (error) {
      if (id !== 0) answer({ id, error: error instanceof Error ? error.message : String(error), result: null })
    }
  }
  busy = false
}

function answer(reply: WorkerReply, transfer: ArrayBuffer[] = []): void {
  port.postMessage(reply, transfer)
}

async function handle(request: WorkerRequest): Promise<Float32Array | null> {
  switch (request.op) {
    case 'attend': {
      const trunk = trunkOf(request.trunk)
      if (request.start !== null) trunk.begin(request.pass, request.start, blockOf(request.start))
      await trunk.attend(request.pass, request.layer)
      return null
    }
    case 'run-experts':
      await expertsOf(request.experts).run(request, blockOf(request))
      return null
    case 'logits':
      return trunkOf(request.trunk).logits(request.pass, request.rows)
    case 'end-pass':
      trunks.get(request.trunk)?.endPass(request.pass)
      return null
    case 'close-cache':
      trunks.get(request.trunk)?.closeCache(request.cache)
      return null
    case 'open-trunk':
      trunks.set(request.trunk, new WorkerTrunk(request.config, request.embedding))
      return null
    case 'open-layer':
      await trunkOf(request.trunk).openLayer(request.layer, request.source)
      return null
    case 'open-head':
      await trunkOf(request.trunk).openHead(request.source)
      return null
    case 'close-trunk':
      await trunks.get(request.trunk)?.close()
      trunks.delete(request.trunk)
      return null
    case 'open-experts':
      expertSets.set(request.experts, new WorkerExperts(request.hidden))
      return null
    case 'open-expert':
      await expertsOf(request.experts).open(request.layer, request.expert, request.source)
      return null
    case 'close-expert':
      await expertSets.get(request.experts)?.closeExpert(request.layer, request.expert)
      return null
    case 'close-experts':
      await expertSets.get(request.experts)?.close()
      expertSets.delete(request.experts)
      return null
    case 'forget-block':
      blocks.delete(request.block)
      return null
    case 'stop':
      await stop()
      return null
  }
}

async function stop(): Promise<void> {
  for (const trunk of trunks.values()) await trunk.close()
  for (const experts of expertSets.values()) await experts.close()
  port.close()
}

function trunkOf(id: number): WorkerTrunk {
  const trunk = trunks.get(id)
  if (trunk === undefined) throw new Error('the trunk is closed')
  return trunk
}

function expertsOf(id: number): WorkerExperts {
  const experts = expertSets.get(id)
  if (experts === undefined) throw new Error('the experts are closed')
  return experts
}

function blockOf(ref: BlockRef): SharedArrayBuffer {
  if (ref.memory !== null) blocks.set(ref.block, ref.memory)
  const memory = blocks.get(ref.block)
  if (memory === undefined) throw new Error(`shared block ${ref.block} is unknown`)
  return memory
}
