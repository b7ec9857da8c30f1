import assert from 'node:assert/strict'
import { before, test } from 'node:test'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createBlobStore } from '../../../node/model/blob-store.ts'
import { canonicalJson } from '../../../node/model/canonical-json.ts'
import { packCheckpoint } from '../../../node/model/pack.ts'
import { parseManifest } from '../../../node/model/validate-manifest.ts'
import { goldenCheckpoint } from '../../helpers/checkpoint.ts'

type Json = Record<string, any>
let text: string

before(async () => {
  const dir = await mkdtemp(join(tmpdir(), 'skein-test-'))
  const model = await packCheckpoint({
    dir: goldenCheckpoint('random-olmoe'),
    store: createBlobStore({ dir }),
    quant: 'q4',
    tokenizer: 'optional',
  })
  text = canonicalJson(model.manifest)
  await rm(dir, { recursive: true })
})

const blob = (manifest: Json, role: string): Json => manifest['blobs'].find((entry: Json) => entry['role'] === role)
const without = (manifest: Json, entry: Json): void => {
  manifest['blobs'] = manifest['blobs'].filter((other: Json) => other !== entry)
}

const BAD: Record<string, { change: (manifest: Json) => void; message: RegExp }> = {
  'another format': { change: (m) => (m['format'] = 'skein-model/9'), message: /malformed at format/ },
  'no configuration': { change: (m) => delete m['config'], message: /malformed at config/ },
  'a name that leaves the folder': { change: (m) => (m['name'] = '../x'), message: /malformed at name/ },
  'a huge vocabulary': { change: (m) => (m['config'].vocabSize = 2 ** 40), message: /malformed at config.vocabSize/ },
  'a size that is no whole number': { change: (m) => (m['config'].hiddenSize = 64.5), message: /malformed at config.hiddenSize/ },
  'an infinite number': { change: (m) => (m['config'].rope.theta = Number.POSITIVE_INFINITY), message: /malformed at config.rope.theta/ },
  'an odd head': { change: (m) => (m['config'].attention.headDim = 15), message: /16 rotated numbers of a head of 15/ },
  'a rotation beyond the head': { change: (m) => (m['config'].rope.dim = 18), message: /18 rotated numbers of a head of 16/ },
  'an unknown scaling of positions': {
    change: (m) => (m['config'].rope.scaling = { kind: 'longrope' }),
    message: /malformed at config.rope.scaling/,
  },
  'layers out of order': {
    change: (m) => (m['config'].sliding = { window: 4, layers: [1, 0] }),
    message: /layers \[1, 0\] are not ascending numbers of the 2 layers/,
  },
  'no layer with experts': { change: (m) => (m['config'].dense = { size: 8, layers: [0, 1] }), message: /no layer has experts/ },
  'shards of a dense layer': {
    change: (m) => (m['config'].dense = { size: 8, layers: [1] }),
    message: /tensors of the layer 1 do not follow/,
  },
  'groups that do not divide': {
    change: (m) => (m['config'].router.groups = { count: 3, chosen: 1, score: 'best' }),
    message: /1 of 3 groups of 8 experts do not make 3 per token/,
  },
  'groups that are too few': {
    change: (m) => (m['config'].router.groups = { count: 4, chosen: 1, score: 'best' }),
    message: /1 of 4 groups of 8 experts do not make 3 per token/,
  },
  'an unknown role': { change: (m) => (m['blobs'][0].role = 'code'), message: /malformed at blobs.0/ },
  'a blob id with a path': { change: (m) => (m['blobs'][0].cid = '../../etc/passwd'), message: /malformed at blobs.0.cid: not a blob id/ },
  'an unknown tokenizer file': {
    change: (m) => m['blobs'].push({ role: 'tokenizer', name: '../x', cid: m['blobs'][0].cid, bytes: 1 }),
    message: /malformed at blobs/,
  },
  'a tokenizer file twice': {
    change: (m) =>
      m['blobs'].push(...['a', 'b'].map(() => ({ role: 'tokenizer', name: 'tokenizer.json', cid: m['blobs'][0].cid, bytes: 1 }))),
    message: /listed twice/,
  },
  'an end token outside the vocabulary': { change: (m) => (m['config'].eosTokenIds = [256]), message: /end token is outside/ },
  'heads that do not divide': { change: (m) => (m['config'].attention.kvHeads = 3), message: /3 key-value heads do not divide/ },
  'more chosen experts than experts': { change: (m) => (m['config'].expertsPerToken = 9), message: /9 experts per token of only 8/ },
  'a block that is none': { change: (m) => (m['quant'].block = 63), message: /block 63 does not fit q4/ },
  'a block for whole numbers': { change: (m) => (m['quant'] = { kind: 'f32', block: 64 }), message: /block 64 does not fit f32/ },
  'another stride': { change: (m) => (m['expertLayout'].stride = 4096), message: /layout of experts does not follow/ },
  'a tensor of another size': {
    change: (m) => (blob(m, 'layer')['tensors'][0].bytes += 4),
    message: /tensors of the layer 0 do not follow/,
  },
  'a tensor elsewhere': { change: (m) => (blob(m, 'head')['tensors'][1].offset = 0), message: /tensors of the head do not follow/ },
  'a tensor of another shape': {
    change: (m) => (blob(m, 'embedding')['tensors'][0].shape = [64, 256]),
    message: /tensors of the embedding/,
  },
  'no embedding': { change: (m) => without(m, blob(m, 'embedding')), message: /0 blobs for the embedding/ },
  'a missing layer': { change: (m) => without(m, blob(m, 'layer')), message: /1 layer blobs for 2 layers/ },
  'a layer twice': { change: (m) => (blob(m, 'layer')['layer'] = 1), message: /0 blobs for the layer 0/ },
  'a missing shard': { change: (m) => without(m, blob(m, 'experts')), message: /overlap or leave out expert 0/ },
  'a shard beyond the experts': {
    change: (m) => m['blobs'].push({ ...blob(m, 'experts'), first: 8, last: 9 }),
    message: /end before expert 7, or beyond it/,
  },
  'a shard of no layer': {
    change: (m) => m['blobs'].push({ ...blob(m, 'experts'), layer: 2 }),
    message: /layer that the model does not have/,
  },
  'a shard of another size': { change: (m) => (blob(m, 'experts')['bytes'] += 1), message: /has the wrong size/ },
  'generation defaults out of range': { change: (m) => (m['generation'].topP = 2), message: /malformed at generation.topP/ },
}

for (const [what, { change, message }] of Object.entries(BAD)) {
  test(`refuses a manifest with ${what}`, () => {
    const manifest = JSON.parse(text) as Json
    change(manifest)
    assert.throws(
      () => parseManifest(manifest, 'manifest x'),
      (error: Error) => {
        assert.equal(error.name, 'ModelError')
        assert.match(error.message, message)
        assert.match(error.message, /^manifest x is .*; get the package again$/)
        return true
      },
    )
  })
}

test('refuses what is no manifest at all', () => {
  for (const value of [null, 1, 'x', [], {}]) assert.throws(() => parseManifest(value, 'manifest x'), { name: 'ModelError' })
})

test('a manifest survives its canonical form; unknown fields are dropped', () => {
  const manifest = parseManifest({ ...(JSON.parse(text) as Json), later: 1 }, 'manifest x')
  assert.equal(canonicalJson(manifest), text)
})

test('canonical JSON sorts keys at every depth and has no spaces', () => {
  assert.equal(canonicalJson({ b: [{ z: 1, a: null }], a: 'ü', c: undefined }), '{"a":"ü","b":[{"a":null,"z":1}]}')
})
