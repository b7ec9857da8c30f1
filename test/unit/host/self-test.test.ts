import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Experts } from '../../../node/engine/engine.ts'
import { selfTest } from '../../../node/host/self-test.ts'
import type { QuantKind } from '../../../node/model/manifest.ts'
import { engineForTest, packForTest } from '../../helpers/packed-model.ts'
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
