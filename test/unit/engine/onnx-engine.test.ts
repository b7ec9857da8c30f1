import assert from 'node:assert/strict'
import { truncate, writeFile } from 'node:fs/promises'
import { test } from 'node:test'
import type { Worker } from 'node:worker_threads'
import { weightedSum } from '../../../node/engine/combine.ts'
import { createEngine } from '../../../node/engine/onnx-engine.ts'
import type { Experts, Segment } from '../../../node/engine/engine.ts'
import type { ModelPackage } from '../../../node/model/package.ts'
import { feed, generateGreedily, openLocally, runLayers } from '../../helpers/local-generation.ts'
import { engineForTest, packForTest } from '../../helpers/packed-model.ts'

const MODEL = 'random-qwen3moe'
const TOKENS = Object.freeze([1, 2, 3, 4, 5])

/** The model with the path of one blob replaced. */
function withBlob(model: ModelPackage, cid: string, path: string): ModelPackage {
  return { id: model.id, manifest: model.manifest, blobPath: async (wanted) => (wanted === cid ? path : model.blobPath(wanted)) }
}

function shardOf(model: ModelPackage, layer: number) {
  const shard = model.manifest.blobs.find((blob) => blob.role === 'experts' && blob.layer === layer)
  assert.ok(shard?.role === 'experts')
  return shard
}

test('a context that would overflow is refused before anything runs', async (t) => {
  const { model } = await packForTest(t, MODEL)
  const local = await openLocally(engineForTest(t), model)
  const cache = local.trunk.createCache()
  const { maxContext } = local.trunk.config
  await feed(
    local,
    cache,
    Array.from({ length: maxContext - 1 }, (_, i) => i % 256),
  )
  assert.throws(() => local.trunk.beginPass([{ cache, tokens: [1, 2] }]), {
    name: 'InvalidRequestError',
    code: 'context_length_exceeded',
    param: null,
    message: new RegExp(`context is ${maxContext} tokens and the query needs ${maxContext + 1}`),
  })
  await feed(local, cache, [1])
  assert.equal(cache.length, maxContext)
})

test('segments that can’t be run are refused', async (t) => {
  const { model } = await packForTest(t, MODEL)
  const engine = engineForTest(t)
  const { trunk } = await openLocally(engine, model)
  const other = await engine.openTrunk(model)
  const cache = trunk.createCache()
  const begin = (...segments: Segment[]) => trunk.beginPass(segments)
  assert.throws(() => begin({ cache, tokens: [] }), { name: 'InvalidRequestError', message: /no tokens/ })
  for (const token of [-1, 256, 1.5, Number.NaN])
    assert.throws(() => begin({ cache, tokens: [token] }), { name: 'InvalidRequestError', message: /vocabulary/ })
  assert.throws(() => begin(), RangeError)
  assert.throws(() => begin({ cache, tokens: [1] }, { cache, tokens: [2] }), /only once/)
  assert.throws(() => begin({ cache: other.createCache(), tokens: [1] }), /another trunk/)
  const pass = begin({ cache, tokens: [1] })
  assert.throws(() => begin({ cache, tokens: [1] }), /already part of a pass/)
  assert.throws(() => cache.truncate(0), /part of a pass/)
  pass.close()
  cache.close()
  assert.throws(() => begin({ cache, tokens: [1] }), /cache is closed/)
})

test('a pass is walked layer by layer and committed at the end', async (t) => {
  const { model } = await packForTest(t, MODEL)
  const local = await openLocally(engineForTest(t), model)
  const cache = local.trunk.createCache()
  const pass = local.trunk.beginPass([{ cache, tokens: [1, 2] }])
  await assert.rejects(pass.attend(1), /out of turn/)
  await assert.rejects(pass.logits([0]), /0 of 2 layers/)
  assert.throws(() => pass.commit(), /0 of 2 layers/)
  const first = pass.attend(0)
  await assert.rejects(pass.attend(0), /busy/)
  await first
  await assert.rejects(pass.attend(0), /out of turn/)
  await pass.attend(1)
  await assert.rejects(pass.attend(2), /out of turn/)
  await assert.rejects(pass.logits([2]), RangeError)
  await assert.rejects(pass.logits([]), RangeError)
  assert.equal((await pass.logits([1, 0])).length, 512)
  assert.equal(cache.length, 0)
  pass.commit()
  assert.equal(cache.length, 2)
  assert.throws(() => pass.commit(), /committed/)
  pass.close()
  pass.close()
  await assert.rejects(pass.logits([0]), /closed/)
})

test('an uncommitted pass and a truncation leave no trace', async (t) => {
  const { model } = await packForTest(t, MODEL)
  const local = await openLocally(engineForTest(t), model)
  const clean = local.trunk.createCache()
  await feed(local, clean, TOKENS)
  const expected = (await feed(local, clean, [6])).logits

  const cache = local.trunk.createCache()
  await feed(local, cache, TOKENS)
  const dropped = local.trunk.beginPass([{ cache, tokens: [9, 9, 9] }])
  await runLayers(local, dropped)
  dropped.close()
  assert.equal(cache.length, TOKENS.length)
  assert.deepEqual((await feed(local, cache, [6])).logits, expected)

  await feed(local, cache, [7, 8])
  cache.truncate(TOKENS.length)
  assert.deepEqual((await feed(local, cache, [6])).logits, expected)
  assert.throws(() => cache.truncate(7), RangeError)
})

test('a pass that is closed in the middle of a layer frees its cache', async (t) => {
  const { model } = await packForTest(t, MODEL)
  const local = await openLocally(engineForTest(t), model)
  const cache = local.trunk.createCache()
  const pass = local.trunk.beginPass([{ cache, tokens: TOKENS }])
  const layer = pass.attend(0)
  pass.close()
  await layer
  await assert.rejects(pass.attend(1), /closed/)
  const other = local.trunk.createCache()
  assert.deepEqual((await feed(local, cache, TOKENS)).logits, (await feed(local, other, TOKENS)).logits)
})

test('experts come and go shard by shard', async (t) => {
  const { model } = await packForTest(t, MODEL)
  const engine = engineForTest(t, 2)
  const experts = await engine.openExperts(model)
  const shard = shardOf(model, 1)
  const x = new Float32Array(64).fill(0.5)
  const run = (expert: number, from: Experts = experts) =>
    from.run({ layer: 1, x, rows: 1, pickRow: Uint16Array.of(0), pickExpert: Uint16Array.of(expert) })
  assert.equal(experts.has(1, shard.first), false)
  await assert.rejects(run(shard.first), {
    name: 'ModelError',
    message: `expert ${shard.first} of layer 1 is not open; open its shard first`,
  })
  await Promise.all([experts.openShard(1, shard.first), experts.openShard(1, shard.first)])
  assert.equal(experts.has(1, shard.last), true)
  assert.equal(experts.has(0, shard.first), false)
  const output = await run(shard.first)
  assert.equal(output.length, 64)
  assert.ok(output.some((value) => value !== 0))
  await experts.closeShard(1, shard.first)
  await experts.closeShard(1, shard.first)
  await assert.rejects(run(shard.first), { name: 'ModelError' })
  await experts.openShard(1, shard.first)
  assert.deepEqual(await run(shard.first), output)
  await assert.rejects(experts.openShard(1, shard.first + 1), { name: 'ModelError', message: /no shard of layer 1/ })
  await experts.close()
  await assert.rejects(run(shard.first), /closed/)
  await assert.rejects(experts.openShard(1, shard.first), /closed/)
})

test('jobs that do not fit together are refused', async (t) => {
  const { model } = await packForTest(t, MODEL)
  const { experts } = await openLocally(engineForTest(t), model)
  const job = { layer: 0, x: new Float32Array(128), rows: 2, pickRow: Uint16Array.of(0, 1), pickExpert: Uint16Array.of(2, 2) }
  assert.equal((await experts.run(job)).length, 128)
  await assert.rejects(experts.run({ ...job, x: new Float32Array(127) }), RangeError)
  await assert.rejects(experts.run({ ...job, pickExpert: Uint16Array.of(2) }), RangeError)
  await assert.rejects(experts.run({ ...job, pickRow: Uint16Array.of(0, 2) }), /names row 2 of 2/)
  await assert.rejects(experts.run({ ...job, pickRow: Uint16Array.of(1, 0) }), /out of order/)
  await assert.rejects(experts.run({ ...job, pickRow: Uint16Array.of(1, 1) }), /out of order/)
  await assert.rejects(experts.run({ ...job, pickExpert: Uint16Array.of(2, 1) }), /out of order/)
  await assert.rejects(experts.run({ ...job, pickExpert: Uint16Array.of(2, 8) }), { name: 'ModelError', message: /expert 8 of layer 0/ })
  await assert.rejects(experts.run({ ...job, layer: 7 }), { name: 'ModelError' })
  await assert.rejects(experts.run({ ...job, pickWeight: Float32Array.of(1) }), /1 weights for 2 picks/)
})

test('a job with weights gives the weighted sum of each row, and results stay as they are while others are computed', async (t) => {
  const { model } = await packForTest(t, MODEL)
  const { experts } = await openLocally(engineForTest(t), model)
  const x = Float32Array.from({ length: 128 }, (_, i) => Math.sin(i))
  const job = { layer: 0, x, rows: 2, pickRow: Uint16Array.of(0, 1, 0), pickExpert: Uint16Array.of(2, 3, 5) }
  const pickWeight = Float32Array.of(0.5, 0.25, 2)
  const outputs = await experts.run(job)
  const kept = outputs.slice()
  const expected = new Float32Array(128)
  weightedSum({ rows: 2, width: 64, pickRow: job.pickRow, pickWeight, outputs, into: expected })
  const sums = await experts.run({ ...job, pickWeight })
  assert.deepEqual(sums, expected)
  assert.ok(sums.every((value) => value !== 0))
  await experts.run({ ...job, x: new Float32Array(128) })
  assert.deepEqual([outputs, sums], [kept, expected])
})

test('a corrupt or truncated blob is a ModelError that names it, and the engine goes on', async (t) => {
  const { model } = await packForTest(t, MODEL)
  const engine = engineForTest(t)
  const shard = shardOf(model, 0)
  const short = await packForTest(t, MODEL)
  const shortPath = await short.model.blobPath(shard.cid)
  // After the hash was checked, as a disk or an operator may do.
  await truncate(shortPath, 4096)
  const experts = await engine.openExperts(withBlob(model, shard.cid, shortPath))
  await assert.rejects(experts.openShard(0, shard.first), { name: 'ModelError', message: new RegExp(`${shard.cid} has 4096 bytes`) })
  assert.equal(experts.has(0, shard.first), false)

  const broken = await packForTest(t, MODEL)
  const layer = model.manifest.blobs.find((blob) => blob.role === 'layer')!
  await writeFile(await broken.model.blobPath(layer.cid), Buffer.alloc(layer.bytes, 1))
  await assert.rejects(engine.openTrunk(broken.model), { name: 'ModelError', message: new RegExp(layer.cid) })

  assert.equal((await generateGreedily(await openLocally(engine, model), TOKENS, 3)).length, 3)
})

test('a thread that dies rejects what it was doing and everything after, and close still ends', async (t) => {
  const { model } = await packForTest(t, MODEL)
  const threads: Worker[] = []
  const remember = (worker: Worker): void => void threads.push(worker)
  process.on('worker', remember)
  const engine = createEngine({ threads: 2, callerRunBytes: 0 })
  // Node tells of new threads one tick late.
  await new Promise(setImmediate)
  process.off('worker', remember)
  t.after(() => engine.close())
  const local = await openLocally(engine, model)
  const pass = local.trunk.beginPass([{ cache: local.trunk.createCache(), tokens: TOKENS }])
  // In this order: asked first, a quick thread may answer before it is ended. The engine hears of the end only afterwards.
  const ended = threads[0]!.terminate()
  await assert.rejects(pass.attend(0), /engine thread 0 ended with code 1; restart the node/)
  await ended
  await assert.rejects(pass.attend(0), /failed/)
  pass.close()
  await assert.rejects(generateGreedily(local, TOKENS, 1), /engine thread 0 ended/)
  await assert.rejects(engine.openTrunk(model), /engine thread 0 ended/)
  // The other thread's experts still answer.
  const x = new Float32Array(64)
  const run = (expert: number) =>
    local.experts.run({ layer: 0, x, rows: 1, pickRow: Uint16Array.of(0), pickExpert: Uint16Array.of(expert) })
  assert.equal((await run(1)).length, 64)
  await assert.rejects(run(0), /engine thread 0 ended/)
  await local.experts.close()
  await local.trunk.close()
  await engine.close()
  await engine.close()
})

test('jobs that run in the thread of their caller give the same bits as in a worker, and wait for nobody', async (t) => {
  const { model } = await packForTest(t, MODEL)
  const threads = 1
  const [caller, worker] = [createEngine({ threads }), createEngine({ threads, callerRunBytes: 0 })]
  for (const engine of [caller, worker]) t.after(() => engine.close())
  const sides = [await openLocally(caller, model), await openLocally(worker, model)]
  const jobs = Array.from({ length: 20 }, (_, job) => ({
    layer: job % 2,
    x: Float32Array.from({ length: 64 * 2 }, (_unused, i) => Math.sin(job + i)),
    rows: 2,
    pickRow: Uint16Array.of(0, 1, 0),
    pickExpert: Uint16Array.of(1, 1, 2 + (job % 6)),
    ...(job % 3 === 0 && { pickWeight: Float32Array.of(0.5, 0.25, -1) }),
  }))
  const [inCaller, inWorker] = await Promise.all(sides.map(({ experts }) => Promise.all(jobs.map((job) => experts.run(job)))))
  assert.deepEqual(inCaller, inWorker)
  assert.ok(inCaller![0]!.some((value) => value !== 0))

  const { experts } = sides[0]!
  const rows = 4_096
  const large = { layer: 0, x: new Float32Array(64 * rows), rows, pickRow: Uint16Array.from({ length: rows }, (_, row) => row) }
  const ends: string[] = []
  const ended = (name: string) => (): void => void ends.push(name)
  await Promise.all([
    experts.run({ ...large, pickExpert: new Uint16Array(rows) }).then(ended('large')),
    experts.run(jobs[0]!).then(ended('small')),
  ])
  // Elsewhere sessions can't be borrowed from the worker.
  assert.deepEqual(ends, process.platform === 'linux' ? ['small', 'large'] : ['large', 'small'])

  const shard = model.manifest.blobs.find((blob) => blob.role === 'experts')!
  await experts.closeShard(shard.layer, shard.first)
  await assert.rejects(experts.run({ ...jobs[0]!, layer: shard.layer }), /not open/)
  await experts.openShard(shard.layer, shard.first)
  assert.deepEqual(await experts.run(jobs[0]!), inCaller![0])
  await caller.close()
  await assert.rejects(experts.run(jobs[0]!), /closed/)
  await assert.rejects(caller.openExperts(model), /closed/)
})

test('a closed engine refuses work', async (t) => {
  const { model } = await packForTest(t, MODEL)
  const engine = createEngine({ threads: 1 })
  const local = await openLocally(engine, model)
  const pending = assert.rejects(
    (async () => {
      for (;;) await generateGreedily(local, TOKENS, 1)
    })(),
    /closed/,
  )
  await engine.close()
  await pending
  await assert.rejects(engine.openTrunk(model), /closed/)
  assert.throws(() => createEngine({ threads: 0 }), RangeError)
  assert.throws(() => createEngine({ threads: 1.5 }), RangeError)
})
