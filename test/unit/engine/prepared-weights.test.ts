import assert from 'node:assert/strict'
import { open, readdir, rm, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import type { QuantKind, ShardEntry } from '../../../node/model/manifest.ts'
import type { ModelPackage } from '../../../node/model/package.ts'
import { readPacks } from '../../../node/engine/saved-packs.ts'
import { addPacks, OnnxGraph } from '../../../node/engine/onnx-graph.ts'
import { engineForTest, packForTest } from '../../helpers/packed-model.ts'

/** Outputs of all experts of layer 0 for three rows, and the warnings heard. */
async function runShards(t: TestContext, model: ModelPackage, preparedFromBytes: number): Promise<[Float32Array, string[]]> {
  const warnings: string[] = []
  const engine = engineForTest(t, 2, { preparedFromBytes, onWarning: (message) => warnings.push(message) })
  const experts = await engine.openExperts(model)
  for (const shard of shardsOf(model)) await experts.openShard(0, shard.first)
  const { hiddenSize, experts: count } = model.manifest.config
  const picks = Array.from({ length: 3 * count }, (_, i) => ({ expert: Math.floor(i / 3), row: i % 3 }))
  const outputs = await experts.run({
    layer: 0,
    x: Float32Array.from({ length: 3 * hiddenSize }, (_, i) => Math.cos(i)),
    rows: 3,
    pickRow: Uint16Array.from(picks, ({ row }) => row),
    pickExpert: Uint16Array.from(picks, ({ expert }) => expert),
  })
  await engine.close()
  return [outputs, warnings]
}

function shardsOf(model: ModelPackage): ShardEntry[] {
  return model.manifest.blobs.filter((blob): blob is ShardEntry => blob.role === 'experts' && blob.layer === 0)
}

for (const kind of ['f32', 'f16', 'q8', 'q4'] satisfies QuantKind[]) {
  test(`experts compute the same bits with prepared weights, ${kind}`, async (t) => {
    const { model, dir } = await packForTest(t, 'random-olmoe', { kind, ...(kind.startsWith('q') ? { block: 32 } : {}) })
    const [expected] = await runShards(t, model, Infinity)
    await assert.rejects(readdir(join(dir, 'prepared')), { code: 'ENOENT' })
    const [preparing] = await runShards(t, model, 1)
    assert.deepEqual(preparing, expected)
    const files = await readdir(join(dir, 'prepared'))
    assert.equal(files.filter((name) => name.endsWith('.json')).length, shardsOf(model).length)
    assert.equal(files.filter((name) => name.startsWith('tmp-')).length, 0)
    const [prepared, warnings] = await runShards(t, model, 1)
    assert.deepEqual(prepared, expected)
    assert.deepEqual(warnings, [])
  })
}

test('prepared weights that were damaged are noticed and put away', async (t) => {
  const { model, dir } = await packForTest(t, 'random-olmoe', { kind: 'q4', block: 32 })
  const [expected] = await runShards(t, model, 1)
  const cid = shardsOf(model)[0]!.cid
  const name = (await readdir(join(dir, 'prepared'))).find((file) => file.startsWith(cid) && !file.endsWith('.json'))!
  const file = await open(join(dir, 'prepared', name), 'r+')
  const { size } = await file.stat()
  await file.write(Buffer.alloc(size), 0, size, 0)
  await file.close()
  const [outputs, warnings] = await runShards(t, model, 1)
  assert.deepEqual(outputs, expected)
  assert.equal(warnings.length, 1)
  assert.match(warnings[0]!, new RegExp(`prepared weights of blob ${cid} are wrong`))
  await assert.rejects(stat(join(dir, 'prepared', name)), { code: 'ENOENT' })
})

test('where prepared weights and the blob differ, the blob is hashed again before it is believed', async (t) => {
  const { model, dir } = await packForTest(t, 'random-olmoe', { kind: 'q4', block: 32 })
  await runShards(t, model, 1)
  const { cid } = shardsOf(model)[0]!
  const path = await model.blobPath(cid)
  const { size } = await stat(path)
  await writeFile(path, Buffer.alloc(size, 0x11))
  // As a store that remembers the hash as right, because the disk and not a program changed the file.
  const asRemembered: ModelPackage = {
    ...model,
    blobPath: async (wanted, options) => (wanted === cid && options?.fresh !== true ? path : await model.blobPath(wanted, options)),
  }
  await assert.rejects(runShards(t, asRemembered, 1), { name: 'ModelError', message: new RegExp(`blob ${cid} is corrupt`) })
  assert.equal((await readdir(dir)).includes(`${cid}.corrupt`), true)
})

test('prepared weights that were found right once are looked at again when they have changed', async (t) => {
  const { model, dir } = await packForTest(t, 'random-olmoe', { kind: 'q4', block: 32 })
  const warnings: string[] = []
  const engine = engineForTest(t, 1, { preparedFromBytes: 1, onWarning: (message) => warnings.push(message) })
  const experts = await engine.openExperts(model)
  const { cid, first } = shardsOf(model)[0]!
  const x = new Float32Array(model.manifest.config.hiddenSize).fill(0.5)
  const outputs = async (): Promise<Float32Array> => {
    await experts.openShard(0, first)
    const numbers = await experts.run({ layer: 0, x, rows: 1, pickRow: Uint16Array.of(0), pickExpert: Uint16Array.of(first) })
    await experts.closeShard(0, first)
    return numbers
  }
  const expected = await outputs()
  for (let opening = 0; opening < 2; opening++) assert.deepEqual(await outputs(), expected)
  const name = (await readdir(join(dir, 'prepared'))).find((file) => file.startsWith(cid) && !file.endsWith('.json'))!
  const { size } = await stat(join(dir, 'prepared', name))
  await writeFile(join(dir, 'prepared', name), Buffer.alloc(size))
  assert.deepEqual(await outputs(), expected)
  assert.equal(warnings.length, 1)
  assert.match(warnings[0]!, /are wrong/)
})

test('prepared weights of another length are made anew', async (t) => {
  const { model, dir } = await packForTest(t, 'random-olmoe', { kind: 'q4', block: 32 })
  const [expected] = await runShards(t, model, 1)
  for (const name of await readdir(join(dir, 'prepared'))) await writeFile(join(dir, 'prepared', name), '{"graphs":')
  const [outputs, warnings] = await runShards(t, model, 1)
  assert.deepEqual(outputs, expected)
  assert.deepEqual(warnings, [])
})

test('a store that takes no files costs memory and one warning', async (t) => {
  const { model, dir } = await packForTest(t, 'random-olmoe', { kind: 'q4', block: 32 })
  await writeFile(join(dir, 'prepared'), 'not a folder')
  const [expected] = await runShards(t, model, Infinity)
  const [outputs, warnings] = await runShards(t, model, 1)
  assert.deepEqual(outputs, expected)
  assert.equal(warnings.length, 1)
  assert.match(warnings[0]!, /can't be prepared in .* packed in memory instead/)
  await rm(join(dir, 'prepared'))
})

test('packs that are added to a model are read back', () => {
  const graph = new OnnxGraph('g')
  graph.input('x', 'f32', ['n', 2])
  const packs = [
    { key: 'MatMul+1', parts: [{ offset: 4096, bytes: 300 }] },
    {
      key: 'MatMul+2',
      parts: [
        { offset: 8192, bytes: 1 },
        { offset: 12_288, bytes: 2 },
      ],
    },
  ]
  const model = addPacks(graph.toBytes(), 'prepared/file', packs)
  assert.deepEqual(readPacks(model), packs)
  assert.deepEqual(readPacks(graph.toBytes()), [])
  for (let length = graph.toBytes().length + 1; length < model.length; length++) {
    assert.throws(() => readPacks(model.subarray(0, length)), /ends within/)
  }
})
