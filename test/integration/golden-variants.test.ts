/** Options that no checkpoint in test/golden has by itself, against transformers (test/golden/variants.json). */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { packCheckpoint } from '../../node/model/pack.ts'
import { argmax } from '../../node/engine/sampler.ts'
import { changedCheckpoint, goldenCheckpoint } from '../helpers/checkpoint.ts'
import { feed, openLocally } from '../helpers/local-generation.ts'
import { engineForTest } from '../helpers/packed-model.ts'
import { temporaryDir } from '../helpers/temporary-dir.ts'
import { relativeError } from './golden-suite.ts'

const TOLERANCE = 1e-3

interface Variant {
  readonly title: string
  readonly checkpoint: string
  readonly config: Readonly<Record<string, unknown>>
  readonly ids: readonly number[]
  readonly greedy: readonly number[]
  /** Positions of prompt and greedy continuation together of which logits are kept. */
  readonly rows: readonly number[]
  readonly logits: readonly (readonly number[])[]
}

const { cases } = JSON.parse(readFileSync(new URL('../golden/variants.json', import.meta.url), 'utf8')) as { cases: readonly Variant[] }

for (const { title, checkpoint, config, ids, greedy, rows, logits: expected } of cases) {
  test(title, { timeout: 60_000 }, async (t) => {
    const dir = await changedCheckpoint(t, goldenCheckpoint(checkpoint), config)
    const store = createBlobStore({ dir: await temporaryDir(t) })
    const model = await packCheckpoint({ dir, store, quant: 'f32', tokenizer: 'optional', name: 'variant' })
    const local = await openLocally(engineForTest(t), model)
    const { vocabSize } = local.trunk.config
    const cache = local.trunk.createCache()
    const found: Float32Array[] = []
    const prompt = await feed(local, cache, ids, 'all')
    for (let row = 0; row < ids.length; row++) found.push(prompt.logits.slice(row * vocabSize, (row + 1) * vocabSize))
    for (const token of greedy) {
      assert.equal(argmax(found.at(-1)!), token)
      found.push((await feed(local, cache, [token])).logits)
    }
    const worst = Math.max(...rows.map((row, i) => relativeError(found[row]!, expected[i]!)))
    t.diagnostic(`largest relative error of a logit ${worst.toExponential(1)}`)
    assert.ok(worst <= TOLERANCE)
  })
}
