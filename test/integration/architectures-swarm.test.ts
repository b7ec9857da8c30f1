/**
 * Models other than the embedded one, packed by `skein pack`, over real hosts: the tokens are those of the reference, and bits are those of one process.
 * gpt-oss has biased experts with a clamp; DeepSeek-V3 a dense layer, shared experts and a latent cache.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { openModel } from '../../node/model/library.ts'
import { expertLayers } from '../../node/model/model-config.ts'
import { changedCheckpoint, goldenCheckpoint } from '../helpers/checkpoint.ts'
import { runPack } from '../helpers/pack-command.ts'
import type { CheckpointName } from '../helpers/packed-model.ts'
import { ask, createSwarm, shareOf, untilReady } from '../helpers/swarm.ts'
import type { Answer } from '../helpers/swarm.ts'
import { addTinyTokenizer } from '../helpers/tiny-tokenizer.ts'
import type { SkeinNode } from '../../node/node.ts'
import { casesOf } from './golden-suite.ts'

const HOSTS = 2
const NAMES: readonly CheckpointName[] = ['random-gptoss', 'random-deepseek3']

for (const name of NAMES) {
  test(`${name}: a swarm gives the reference's tokens and the bits of one process`, { timeout: 60_000 }, async (t) => {
    const swarm = await createSwarm(t)
    const checkpoint = await changedCheckpoint(t, goldenCheckpoint(name), {})
    const vocabSize = 96
    await addTinyTokenizer(checkpoint, vocabSize)
    const output = await runPack(t, swarm.dir, [checkpoint, '--quant', 'f32', '--name', name])
    const model = await openModel(createBlobStore({ dir: swarm.storeDir }), name)
    assert.ok(output.startsWith(`packed ${name} in `))
    const cases = await casesOf(name)
    const answerAll = async (node: SkeinNode): Promise<Answer[]> => {
      const answers: Answer[] = []
      for (const { ids, greedy } of cases) {
        const input = { kind: 'tokens', ids } as const
        const fields = { model: name, input, maxTokens: greedy.length, logprobs: vocabSize, wire: 'f32', combine: 'driver' } as const
        answers.push(await ask(node, { prompt: '' }, fields))
      }
      return answers
    }

    const alone = await swarm.start({ model: [name], host: 'all' })
    const expected = await answerAll(alone)
    await alone.stop()
    for (const [i, { greedy }] of cases.entries()) {
      const end = greedy.findIndex((token) => model.manifest.config.eosTokenIds.includes(token))
      assert.deepEqual(expected[i]!.tokens, end === -1 ? greedy : greedy.slice(0, end))
    }

    const driver = await swarm.start({ model: [name], host: 'none' })
    for (let part = 0; part < HOSTS; part++) await swarm.start({ model: [name], host: shareOf(model, part, HOSTS) })
    await untilReady(driver, HOSTS)
    const [status] = driver.status().models
    const { config } = model.manifest
    assert.deepEqual(status!.coverage.experts, expertLayers(config).length * config.experts)
    assert.equal(status!.coverage.covered, status!.coverage.experts)
    for (const [i, answer] of (await answerAll(driver)).entries()) {
      assert.deepEqual(answer.tokens, expected[i]!.tokens)
      assert.deepEqual(answer.logprobs, expected[i]!.logprobs)
      assert.deepEqual([answer.report.exact, answer.report.calls.local], [true, 0])
      assert.ok(answer.report.calls.remote > 0)
      const layers = new Set(answer.report.hosts.flatMap((host) => host.layers))
      assert.deepEqual(
        [...layers].sort((a, b) => a - b),
        expertLayers(config),
      )
    }
  })
}
