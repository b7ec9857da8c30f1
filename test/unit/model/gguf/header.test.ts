import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import fc from 'fast-check'
import { openCheckpoint } from '../../../../node/model/checkpoint.ts'
import { openGguf } from '../../../../node/model/gguf/checkpoint.ts'
import { readGgufHeader } from '../../../../node/model/gguf/header.ts'
import { openGgufFiles, splitNames } from '../../../../node/model/gguf/split-files.ts'
import { ggufBytes } from '../../../helpers/gguf.ts'
import type { GgufValue, PlainGgufTensor } from '../../../helpers/gguf.ts'
import { isMeshError } from '../../../../protocols/wire/errors.ts'
import { temporaryDir } from '../../../helpers/temporary-dir.ts'

const metadata: Record<string, GgufValue> = { 'general.architecture': ['text', 'olmoe'], 'olmoe.expert_count': ['u32', 4] }
const tensor = (fields: Partial<PlainGgufTensor> = {}): PlainGgufTensor => ({
  name: 'a',
  shape: [2, 4],
  type: 0,
  data: new Uint8Array(32),
  ...fields,
})
const file = (...tensors: PlainGgufTensor[]): Buffer => ggufBytes({ metadata, tensors })

async function written(t: TestContext, bytes: Uint8Array, name = 'model.gguf'): Promise<string> {
  const path = join(await temporaryDir(t), name)
  await writeFile(path, bytes)
  return path
}

const good = file(tensor())
const BAD: Record<string, { bytes: Uint8Array; message: RegExp }> = {
  'an empty file': { bytes: new Uint8Array(0), message: /no GGUF file/ },
  'another magic': {
    bytes: Buffer.from('GGML\u0001\u0000\u0000\u0000whatever'),
    message: /does not begin with "GGUF"\): get the file again/,
  },
  'a Git LFS pointer': { bytes: Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:00\n'), message: /git lfs pull/ },
  'a version of the future': {
    bytes: Buffer.concat([Buffer.from('GGUF'), Buffer.from([9, 0, 0, 0]), Buffer.alloc(64)]),
    message: /unsupported version "9"/,
  },
  'a big-endian file': { bytes: Buffer.concat([Buffer.from('GGUF'), Buffer.from([0, 0, 0, 3]), Buffer.alloc(64)]), message: /big-endian/ },
  'a header cut off': { bytes: good.subarray(0, 60), message: /truncated|cut off|can't be read/ },
  'data cut off': {
    bytes: good.subarray(0, good.byteLength - 8),
    message: /truncated: tensor a \[2, 4\] in F32 ends at byte \d+ .*download it again/,
  },
  'an offset beyond the file': { bytes: file(tensor({ offset: 2 ** 40 })), message: /truncated: tensor a/ },
  'overlapping tensors': { bytes: file(tensor(), tensor({ name: 'b', offset: 16 })), message: /tensors a and b overlap/ },
  'a tensor listed twice': { bytes: file(tensor(), tensor()), message: /tensor a is listed twice/ },
  'a row that is no whole blocks': { bytes: file(tensor({ type: 2 })), message: /tensor a can't have shape \[2, 4\] in Q4_0/ },
  'a shape of nothing': { bytes: file(tensor({ shape: [2, 0] })), message: /tensor a can't have shape \[2, 0\]/ },
  'a shape that overflows': { bytes: file(tensor({ shape: [2 ** 31, 2 ** 31, 2 ** 31] })), message: /tensor a can't have shape/ },
  'too many dimensions': { bytes: file(tensor({ shape: [1, 1, 1, 2, 4] })), message: /tensor a can't have shape/ },
  'a quantisation that is not read': {
    bytes: file(tensor({ type: 16 })),
    message: /tensor a is in IQ2_XXS, which is not read; get a file of one of F32, F16, Q4_0/,
  },
  'a quantisation that nobody knows': { bytes: file(tensor({ type: 999 })), message: /tensor a is in type 999/ },
}

for (const [what, { bytes, message }] of Object.entries(BAD)) {
  test(`refuses ${what}`, async (t) => {
    const path = await written(t, bytes)
    await assert.rejects(readGgufHeader(path), (error: Error) => {
      assert.equal(error.name, 'ModelError')
      assert.match(error.message, message)
      assert.ok(error.message.includes(path), 'names the file')
      return true
    })
  })
}

test('refuses a text that ends beyond what was read, which the parser would cut in silence', async (t) => {
  // The parser reads 2 MB at a time; the last of these tokens begins in the first piece and ends in the second.
  const tokens = Array.from({ length: 19 }, () => 'x'.repeat(100_000))
  const start = ggufBytes({ metadata: { t: ['list', 'text', tokens] } }).byteLength
  const filler = 2_000_000 - start - 40
  const path = await written(
    t,
    ggufBytes({ metadata: { t: ['list', 'text', [...tokens, 'y'.repeat(filler), 'z'.repeat(200)]] }, tensors: [tensor()] }),
  )
  await assert.rejects(readGgufHeader(path), { name: 'ModelError', message: /texts that are cut off/ })
})

const MODELS: Record<string, { metadata: Record<string, GgufValue>; message: RegExp }> = {
  'an architecture that is not known': {
    metadata: { 'general.architecture': ['text', 'mamba'] },
    message: /GGUF architecture mamba is not supported; known: qwen3moe/,
  },
  'no architecture': { metadata: {}, message: /general\.architecture is missing/ },
  'no experts': {
    metadata: { 'general.architecture': ['text', 'llama'] },
    message: /llama\.expert_count is missing or 0: only mixture-of-experts/,
  },
  'a count that is text': {
    metadata: { 'general.architecture': ['text', 'olmoe'], 'olmoe.expert_count': ['text', 'many'] },
    message: /olmoe\.expert_count is a text; expected a number/,
  },
}

for (const [what, { metadata: values, message }] of Object.entries(MODELS)) {
  test(`refuses a model with ${what}`, async (t) => {
    const path = await written(t, ggufBytes({ metadata: values, tensors: [tensor()] }))
    await assert.rejects(openGguf(path), { name: 'ModelError', message })
  })
}

test('finds the files of a split model, and names one that is missing', async (t) => {
  assert.deepEqual(splitNames('m-00002-of-00003.gguf'), ['m-00001-of-00003.gguf', 'm-00002-of-00003.gguf', 'm-00003-of-00003.gguf'])
  assert.deepEqual(splitNames('m.gguf'), ['m.gguf'])
  const dir = await temporaryDir(t)
  await writeFile(join(dir, 'm-00001-of-00002.gguf'), file(tensor()))
  await assert.rejects(openGgufFiles(join(dir, 'm-00001-of-00002.gguf')), {
    name: 'ModelError',
    message: /m-00002-of-00002\.gguf can't be read/,
  })
  await writeFile(join(dir, 'm-00002-of-00002.gguf'), file(tensor()))
  await assert.rejects(openGgufFiles(join(dir, 'm-00002-of-00002.gguf')), { name: 'ModelError', message: /tensor a is in both/ })
  await writeFile(join(dir, 'm-00002-of-00002.gguf'), file(tensor({ name: 'b' })))
  assert.deepEqual([...(await openGgufFiles(join(dir, 'm-00002-of-00002.gguf'))).tensors.keys()], ['a', 'b'])
})

test('a folder without config.json may hold one model in GGUF, not several', async (t) => {
  const dir = await temporaryDir(t)
  await assert.rejects(openCheckpoint(dir), { name: 'ModelError', message: /config\.json is missing/ })
  await writeFile(join(dir, 'a.gguf'), file(tensor()))
  await assert.rejects(openCheckpoint(dir), { name: 'ModelError', message: /a\.gguf: num_attention_heads is missing/ })
  await writeFile(join(dir, 'b.gguf'), file(tensor()))
  await assert.rejects(openCheckpoint(dir), {
    name: 'ModelError',
    message: /holds several models \(a\.gguf, b\.gguf\): name the file of one/,
  })
})

test('whatever is wrong with a header, it is refused or read, and memory stays bounded', async (t) => {
  const dir = await temporaryDir(t)
  const path = join(dir, 'model.gguf')
  const whole = ggufBytes({
    metadata: {
      ...metadata,
      'tokenizer.ggml.tokens': ['list', 'text', ['a', 'b', 'c']],
      'tokenizer.ggml.scores': ['list', 'f32', [1, 2, 3]],
    },
    tensors: [tensor(), tensor({ name: 'b', shape: [32], type: 8, data: new Uint8Array(34) })],
  })
  const seed = Math.floor(Math.random() * 2 ** 31)
  t.diagnostic(`seed ${seed}`)
  const change = fc.record({ at: fc.nat(whole.byteLength - 1), bytes: fc.uint8Array({ minLength: 1, maxLength: 8 }) })
  const before = process.memoryUsage().rss
  await fc.assert(
    fc.asyncProperty(fc.array(change, { maxLength: 4 }), fc.option(fc.nat(whole.byteLength)), async (changes, cut) => {
      const bytes = Buffer.from(whole)
      for (const { at, bytes: patch } of changes) bytes.set(patch.subarray(0, bytes.byteLength - at), at)
      await writeFile(path, cut === null ? bytes : bytes.subarray(0, cut))
      try {
        const { tensors } = await readGgufHeader(path)
        for (const { offset, bytes: size } of tensors.values()) assert.ok(offset + size <= bytes.byteLength)
      } catch (error) {
        assert.ok(isMeshError(error, 'ModelError'), String(error))
      }
    }),
    { seed, numRuns: 300 },
  )
  const grown = (process.memoryUsage().rss - before) / 2 ** 20
  t.diagnostic(`resident memory grew by ${grown.toFixed()} MiB`)
  assert.ok(grown < 600)
})
