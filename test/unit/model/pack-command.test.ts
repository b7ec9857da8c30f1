import assert from 'node:assert/strict'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { createBlobStore } from '../../../node/model/blob-store.ts'
import { listModels, openModel } from '../../../node/model/library.ts'
import { EMBER_CHECKPOINT, goldenCheckpoint } from '../../helpers/checkpoint.ts'
import { hubServer } from '../../helpers/hub-server.ts'
import { runPack } from '../../helpers/pack-command.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

test('packs into the data directory and says what it made', async (t) => {
  const data = await temporaryDir(t)
  const output = await runPack(t, '/not/used', [EMBER_CHECKPOINT, '--quant', 'q8', '--block', '32', '--name', 'tales', '--data', data])
  const store = createBlobStore({ dir: join(data, 'blobs') })
  const { id, manifest } = await openModel(store, 'tales')
  assert.deepEqual(manifest.quant, { kind: 'q8', block: 32 })
  assert.match(output, new RegExp(`^packed tales in [\\d.]+ s into .*blobs\\n {2}id {7}${id}\\n`))
  assert.match(output, /6 layers of 16 experts, 2 per token\n/)
  assert.match(output, /experts {2}[\d.]+ MB in 24 shards\n$/)
})

test('refuses kinds, blocks and names that can not be, and passes on what is wrong with a checkpoint', async (t) => {
  const data = await temporaryDir(t)
  const refused = (args: readonly string[], error: { name?: string; message: RegExp }) => assert.rejects(runPack(t, data, args), error)
  await refused([], { message: /missing required argument 'checkpoint'/ })
  await refused([EMBER_CHECKPOINT, '--quant', 'q5'], { message: /'q5' is invalid. Allowed choices are f32, f16, q8, q4/ })
  await refused([EMBER_CHECKPOINT, '--block', '48'], { message: /Allowed choices are 16, 32, 64, 128/ })
  await refused([EMBER_CHECKPOINT, '--what'], { message: /unknown option '--what'/ })
  await refused([EMBER_CHECKPOINT, '--name', 'ember'], { name: 'ConfigError', message: /reserved for the embedded model/ })
  await refused([EMBER_CHECKPOINT, '--name', 'no/name'], { name: 'ModelError', message: /can't be a model's name/ })
  await refused([goldenCheckpoint('random-olmoe')], { name: 'ModelError', message: /has no tokenizer\.json/ })
  assert.deepEqual(await listModels(createBlobStore({ dir: join(data, 'blobs') })), [])
})

test('packs from a hub, and removes the download unless told to keep it', async (t) => {
  const names = ['config.json', 'generation_config.json', 'model.safetensors', 'tokenizer.json', 'tokenizer_config.json', 'README.md']
  const files: Record<string, Uint8Array> = {}
  for (const name of names) files[name] = await readFile(join(EMBER_CHECKPOINT, name))
  const { endpoint, requests } = await hubServer(t, { repo: 'Acme/Ember_Tales', files })
  const data = await temporaryDir(t)
  const store = createBlobStore({ dir: join(data, 'blobs') })
  assert.match(await runPack(t, data, ['hf:Acme/Ember_Tales@main', '--hub', endpoint, '--quant', 'q4']), /^packed ember_tales-q4 in/)
  const fromHub = await openModel(store, 'ember_tales-q4')
  await runPack(t, data, [EMBER_CHECKPOINT, '--name', 'ember_tales-q4'])
  assert.equal((await openModel(store, 'ember_tales-q4')).id, fromHub.id)
  assert.ok(requests.every(({ path }) => !path.endsWith('README.md')))
  assert.deepEqual(await readdir(join(data, 'downloads', 'Acme--Ember_Tales')), [])
  assert.match(await runPack(t, data, ['hf:Acme/Ember_Tales', '--hub', endpoint, '--keep']), /kept +.*downloads.Acme--Ember_Tales/)
  const before = requests.length
  await runPack(t, data, ['hf:Acme/Ember_Tales', '--hub', endpoint, '--quant', 'q8'])
  assert.equal(requests.length, before + 1, 'what was kept is not fetched again')
})
