/** A process of the engine bench: one model in Skein's engine, no network. Arguments: store, name of the model, seed. */
import { readFileSync } from 'node:fs'
import type { Engine, Experts, KvCache, Segment, Trunk } from '../../node/engine/engine.ts'
import { createEngine } from '../../node/engine/onnx-engine.ts'
import { MAX_ADVANCE_ROWS } from '../../node/driver/layer-loop.ts'
import { picksOf } from '../../node/engine/picks.ts'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { openModel } from '../../node/model/library.ts'
import type { ShardEntry } from '../../node/model/manifest.ts'
import { answerParent, LOAD_BYTES, tokenSource } from './engine-child.ts'
import type { EngineRequest } from './engine-child.ts'

const [storeDir, name, seed] = process.argv.slice(2) as [string, string, string]
const model = await openModel(createBlobStore({ dir: storeDir }), name)
const { config } = model.manifest
const nextTokens = tokenSource(Number(seed), config.vocabSize)
const shards = model.manifest.blobs.filter((blob): blob is ShardEntry => blob.role === 'experts')
let opened: { engine: Engine; trunk: Trunk; experts: Experts } | null = null
let cache: KvCache | null = null

answerParent(async (request: EngineRequest) => {
  switch (request.op) {
    case 'open': {
      const engine = createEngine({ threads: request.threads })
      opened = { engine, trunk: await engine.openTrunk(model), experts: await engine.openExperts(model) }
      for (const shard of shards) await opened.experts.openShard(shard.layer, shard.first)
      return []
    }
    case 'prefill': {
      cache?.close()
      cache = opened!.trunk.createCache()
      return [await passMs([{ cache, tokens: nextTokens(request.tokens) }])]
    }
    case 'decode': {
      const samples: number[] = []
      for (const token of nextTokens(request.tokens)) samples.push(await passMs([{ cache: cache!, tokens: [token] }]))
      return samples
    }
    case 'decode-together': {
      const samples: number[] = []
      const caches = Array.from({ length: request.sequences }, () => opened!.trunk.createCache())
      for (let token = 0; token < request.tokens; token++) {
        samples.push(await passMs(caches.map((own) => ({ cache: own, tokens: nextTokens(1) }))))
      }
      for (const own of caches) own.close()
      return samples
    }
    case 'shards':
      return shardMemory(request.threads)
  }
})

async function passMs(segments: readonly Segment[]): Promise<number> {
  const { trunk, experts } = opened!
  const startedAt = performance.now()
  const pass = trunk.beginPass(segments)
  // As the driver of a node that has all experts does.
  while (pass.nextLayer < config.layers) {
    const routing = pass.rows <= MAX_ADVANCE_ROWS ? (await pass.advance(experts)).routing : await pass.attend(pass.nextLayer)
    if (routing === null) continue
    const picks = picksOf(routing, pass.rows, config.experts)
    pass.moe.set(await experts.run({ layer: pass.nextLayer - 1, x: routing.x, rows: pass.rows, ...picks }))
  }
  let rows = 0
  await pass.logits(segments.map(({ tokens }) => (rows += tokens.length) - 1))
  pass.commit()
  pass.close()
  return performance.now() - startedAt
}

/** The first round writes prepared weights where there are none, and warms the code up. */
async function shardMemory(threads: number): Promise<number[]> {
  const engine = createEngine({ threads })
  const experts = await engine.openExperts(model)
  const some = shards.filter((shard, i) => shards.findIndex(({ layer }) => layer === shard.layer) === i)
  const bytes = some.reduce((sum, shard) => sum + shard.bytes, 0)
  let samples: number[] = []
  for (let round = 0; round < 2; round++) {
    const before = residentBytes()
    const loads: number[] = []
    for (const shard of some) {
      const startedAt = performance.now()
      await experts.openShard(shard.layer, shard.first)
      loads.push((performance.now() - startedAt) / (shard.bytes / LOAD_BYTES))
    }
    for (const { layer, first, last } of some) {
      const picked = Uint16Array.from({ length: last - first + 1 }, (_, i) => first + i)
      const x = new Float32Array(config.hiddenSize).fill(0.5)
      await experts.run({ layer, x, rows: 1, pickRow: new Uint16Array(picked.length), pickExpert: picked })
    }
    const used = residentBytes()
    for (const shard of some) await experts.closeShard(shard.layer, shard.first)
    samples = [bytes, before, used, residentBytes(), ...loads]
  }
  await engine.close()
  return samples
}

/** Files that are mapped included. */
function residentBytes(): number {
  const [, kilobytes] = /^VmRSS:\s+(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8')) ?? []
  return kilobytes === undefined ? process.memoryUsage().rss : Number(kilobytes) * 1024
}
