import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { ExpertJob, Experts } from '../../../node/engine/engine.ts'
import { selfTest } from '../../../node/host/self-test.ts'
import type { QuantKind } from '../../../node/model/manifest.ts'
import { engineForTest, packFolderForTest, packForTest, wideCheckpoint } from '../../helpers/packed-model.ts'
import type { CheckpointName } from '../../helpers/packed-model.ts'

const CASES: readonly (readonly [CheckpointName, QuantKind])[] = [
  ['random-qwen3moe', 'f32'],
  ['random-qwen3moe', 'f16'],
  ['random-qwen3moe', 'q8'],
  ['random-qwen3moe', 'q4'],
  ['random-olmoe', 'q4'],
  ['random-mixtral', 'f32'],
  ['random-gptoss', 'f32'],
  ['random-gptoss-mxfp4', 'q8'],
  ['random-granitemoe', 'q4'],
]

for (const [name, kind] of CASES) {
  test(`every shard of ${name} in ${kind} passes; one that is computed wrong does not`, async (t) => {
    const { model } = await packForTest(t, name, { kind })
    const { manifest } = model
    const experts = await engineForTest(t).openExperts(model)
    t.after(() => experts.close())
    const shards = manifest.blobs.filter((blob) => blob.role === 'experts')
    for (const shard of shards) {
      await experts.openShard(shard.layer, shard.first)
      const path = await model.blobPath(shard.cid)
      await selfTest(manifest, experts, shard, path)
      const wrong = (change: (y: Float32Array) => Float32Array): Pick<Experts, 'run'> => ({
        run: async (job) => change(await experts.run(job)),
      })
      for (const [what, change] of Object.entries(FAULTS)) {
        await assert.rejects(selfTest(manifest, wrong(change), shard, path), { name: 'ModelError', message: /self-test/ }, what)
      }
    }
  })
}

const FAULTS: Readonly<Record<string, (y: Float32Array) => Float32Array>> = {
  scaled: (y) => y.map((value) => value * 1.5),
  shifted: (y) => y.map((_, i) => y[(i + 1) % y.length]!),
  zero: (y) => y.map(() => 0),
  'not a number': (y) => y.map((value, i) => (i === 0 ? NaN : value)),
}

test('of experts too large to try whole a sample is tried', async (t) => {
  const checkpoint = await wideCheckpoint(t)
  for (const kind of ['f32', 'f16', 'q8', 'q4'] satisfies QuantKind[]) {
    const { model } = await packFolderForTest(t, checkpoint, { kind })
    const experts = await engineForTest(t).openExperts(model)
    t.after(() => experts.close())
    const shard = model.manifest.blobs.find((blob) => blob.role === 'experts')!
    const { first, last } = shard
    await experts.openShard(0, first)
    const path = await model.blobPath(shard.cid)
    const jobs: ExpertJob[] = []
    const run = async (job: ExpertJob): Promise<Float32Array> => {
      jobs.push(job)
      return await experts.run(job)
    }
    await selfTest(model.manifest, { run }, shard, path)
    const tried = jobs.map(({ x, pickExpert }) => [x.filter((value) => value !== 0).length, ...pickExpert])
    assert.deepEqual(
      tried,
      [first, last].map((expert) => [256, expert]),
    )
    for (const [what, change] of Object.entries(FAULTS)) {
      const wrong = { run: async (job: ExpertJob) => change(await experts.run(job)) }
      await assert.rejects(selfTest(model.manifest, wrong, shard, path), { name: 'ModelError', message: /self-test/ }, `${kind} ${what}`)
    }
    const other = (job: ExpertJob): ExpertJob => ({ ...job, pickExpert: job.pickExpert.map((expert) => first + last - expert) })
    const swapped = { run: async (job: ExpertJob) => await experts.run(other(job)) }
    await assert.rejects(selfTest(model.manifest, swapped, shard, path), { name: 'ModelError', message: /self-test/ }, `${kind} swapped`)
  }
})
