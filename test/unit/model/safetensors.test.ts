import assert from 'node:assert/strict'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import fc from 'fast-check'
import { isMeshError } from '../../../protocols/wire/errors.ts'
import { openCheckpointTensors } from '../../../node/model/checkpoint-tensors.ts'
import { plainTensor, readSafetensorsHeader } from '../../../node/model/safetensors.ts'
import { TensorReader } from '../../../node/model/tensor-reader.ts'
import { safetensorsBytes, writeF32Tensors } from '../../helpers/safetensors.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

const data = new Uint8Array(16)
const entry = (begin: number, end: number, shape = [2], dtype = 'F32') => ({ dtype, shape, data_offsets: [begin, end] })

async function fileOf(t: TestContext, bytes: Uint8Array): Promise<string> {
  const path = join(await temporaryDir(t), 'model.safetensors')
  await writeFile(path, bytes)
  return path
}

const BAD: Record<string, { bytes: Uint8Array; message: RegExp }> = {
  'an empty file': { bytes: new Uint8Array(0), message: /too short \(0 bytes\)/ },
  'a Git LFS pointer': { bytes: Buffer.from('version https://git-lfs.github.com/spec/v1\noid sha256:00\n'), message: /git lfs pull/ },
  'another format': { bytes: Buffer.from('PK\u0003\u0004 some archive, whatever is in it'), message: /not a safetensors file/ },
  'a header length beyond the limit': { bytes: Buffer.from('ffffffffffffffff7b7d', 'hex'), message: /not a safetensors file/ },
  'a header cut off': { bytes: safetensorsBytes({ a: entry(0, 8) }, data).subarray(0, 30), message: /truncated: its header needs/ },
  'a header that is no JSON': { bytes: safetensorsBytes('{"a": ', data), message: /header is not valid JSON/ },
  'data cut off': {
    bytes: safetensorsBytes({ a: entry(0, 8), b: entry(8, 16) }, data.subarray(0, 12)),
    message: /truncated: tensor b ends at byte 16/,
  },
  'overlapping tensors': { bytes: safetensorsBytes({ a: entry(0, 8), b: entry(4, 12) }, data), message: /tensors a and b overlap/ },
  'an end before the begin': { bytes: safetensorsBytes({ a: entry(8, 0) }, data), message: /tensor a ends before it begins/ },
  'a size that does not fit the shape': {
    bytes: safetensorsBytes({ a: entry(0, 8, [3]) }, data),
    message: /tensor a of shape \[3\] in F32 needs 12 bytes and has 8/,
  },
  'a shape that overflows': {
    bytes: safetensorsBytes({ a: entry(0, 8, [2 ** 40, 2 ** 40, 2 ** 40]) }, data),
    message: /tensor a of shape .* needs/,
  },
  'a negative dimension': { bytes: safetensorsBytes({ a: entry(0, 8, [-2]) }, data), message: /entry of tensor a is malformed/ },
  'offsets that are no numbers': {
    bytes: safetensorsBytes({ a: { dtype: 'F32', shape: [2], data_offsets: ['0', '8'] } }, data),
    message: /malformed/,
  },
  'too many dimensions': {
    bytes: safetensorsBytes(
      {
        a: entry(
          0,
          4,
          Array.from({ length: 9 }, () => 1),
        ),
      },
      data,
    ),
    message: /malformed/,
  },
  'an entry that is null': { bytes: safetensorsBytes({ a: null }, data), message: /malformed/ },
}

for (const [what, { bytes, message }] of Object.entries(BAD)) {
  test(`refuses ${what}`, async (t) => {
    const path = await fileOf(t, bytes)
    await assert.rejects(readSafetensorsHeader(path), (error: Error) => {
      assert.equal(error.name, 'ModelError')
      assert.match(error.message, message)
      assert.ok(error.message.includes(path), 'names the file')
      return true
    })
  })
}

test('refuses a type it does not read, also one named like a property of objects', async (t) => {
  const { tensors } = await readSafetensorsHeader(
    await fileOf(t, safetensorsBytes({ a: entry(0, 8, [8], 'F8_E5M2'), b: entry(8, 16, [8], 'toString') }, data)),
  )
  assert.throws(() => plainTensor(tensors.get('a')!), { name: 'ModelError', message: /tensor a has type F8_E5M2, which is not read; use/ })
  assert.throws(() => plainTensor(tensors.get('b')!), { name: 'ModelError', message: /toString/ })
})

test('reads panels of a tensor', async (t) => {
  const bytes = writeF32Tensors({ a: { shape: [2], data: Float32Array.of(1, 2) }, b: { shape: [2, 2], data: Float32Array.of(3, 4, 5, 6) } })
  const { tensors } = await readSafetensorsHeader(await fileOf(t, bytes))
  const reader = new TensorReader()
  t.after(() => reader.close())
  const column = new Float32Array(2)
  reader.read(plainTensor(tensors.get('b')!), { row: 0, rows: 2, column: 1, columns: 1 }, column)
  assert.deepEqual(column, Float32Array.of(4, 6))
  assert.deepEqual(reader.readAll(plainTensor(tensors.get('a')!)), Float32Array.of(1, 2))
  assert.equal(tensors.get('c'), undefined)
})

test('finds tensors over several files by their index', async (t) => {
  const dir = await temporaryDir(t)
  await writeFile(join(dir, 'one.safetensors'), writeF32Tensors({ a: { shape: [1], data: Float32Array.of(1) } }))
  await writeFile(join(dir, 'two.safetensors'), writeF32Tensors({ b: { shape: [1], data: Float32Array.of(2) } }))
  await writeFile(join(dir, 'model.safetensors.index.json'), JSON.stringify({ weight_map: { a: 'one.safetensors', b: 'two.safetensors' } }))
  const tensors = await openCheckpointTensors(dir)
  const reader = new TensorReader()
  t.after(() => reader.close())
  assert.deepEqual(reader.readAll(tensors.get('b', [1])), Float32Array.of(2))
  assert.throws(() => tensors.get('c', [1]), { name: 'ModelError', message: /tensor c is missing/ })
  assert.throws(() => tensors.get('a', [2]), {
    name: 'ModelError',
    message: /tensor a has shape \[1\] and the configuration asks for \[2\]/,
  })
})

test('refuses an index that names files elsewhere, missing files, and tensors held twice', async (t) => {
  const dir = await temporaryDir(t)
  const index = async (map: unknown): Promise<void> =>
    writeFile(join(dir, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }))
  await index({ a: '../one.safetensors' })
  await assert.rejects(openCheckpointTensors(dir), { name: 'ModelError', message: /no safetensors file of the same folder/ })
  await index({ a: 'gone.safetensors' })
  await assert.rejects(openCheckpointTensors(dir), { name: 'ModelError', message: /gone.safetensors is missing/ })
  await index('x')
  await assert.rejects(openCheckpointTensors(dir), { name: 'ModelError', message: /has no weight_map/ })
  const same = writeF32Tensors({ a: { shape: [1], data: Float32Array.of(1) } })
  await writeFile(join(dir, 'one.safetensors'), same)
  await writeFile(join(dir, 'two.safetensors'), same)
  await index({ a: 'one.safetensors', b: 'two.safetensors' })
  await assert.rejects(openCheckpointTensors(dir), { name: 'ModelError', message: /tensor a is in both/ })
})

test('whatever is wrong with a header, it is refused or read within the file', async (t) => {
  const path = join(await temporaryDir(t), 'model.safetensors')
  const whole = safetensorsBytes({ __metadata__: { format: 'pt' }, a: entry(0, 8), b: entry(8, 16, [1, 2]) }, data)
  const seed = Math.floor(Math.random() * 2 ** 31)
  t.diagnostic(`seed ${seed}`)
  const change = fc.record({ at: fc.nat(whole.byteLength - 1), bytes: fc.uint8Array({ minLength: 1, maxLength: 8 }) })
  const text = fc.record({ at: fc.nat(whole.byteLength - 1), bytes: fc.string({ maxLength: 6 }).map((value) => Buffer.from(value)) })
  await fc.assert(
    fc.asyncProperty(fc.array(fc.oneof(change, text), { maxLength: 4 }), fc.option(fc.nat(whole.byteLength)), async (changes, cut) => {
      const bytes = Buffer.from(whole)
      for (const { at, bytes: patch } of changes) bytes.set(patch.subarray(0, bytes.byteLength - at), at)
      await writeFile(path, cut === null ? bytes : bytes.subarray(0, cut))
      try {
        const { tensors } = await readSafetensorsHeader(path)
        for (const { begin, end } of tensors.values()) assert.ok(begin <= end && end <= bytes.byteLength)
      } catch (error) {
        assert.ok(isMeshError(error, 'ModelError'), String(error))
      }
    }),
    { seed, numRuns: 500 },
  )
})
