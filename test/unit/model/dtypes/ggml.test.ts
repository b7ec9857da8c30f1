import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { test } from 'node:test'
import { CODECS } from '../../../../node/model/dtypes/index.ts'

interface Vectors {
  readonly source: string
  readonly types: Readonly<Record<string, { readonly bytes: string; readonly numbers: string }>>
}

const file = new URL('../../../vectors/gguf/blocks.json', import.meta.url)
const { source, types } = JSON.parse(await readFile(file, 'utf8')) as Vectors

for (const [type, vector] of Object.entries(types)) {
  test(`decodes ${type} to the very numbers of ${source}`, () => {
    const codec = CODECS[(type === 'MXFP4' ? 'GGML_MXFP4' : type) as keyof typeof CODECS]
    const bytes = Uint8Array.from(Buffer.from(vector.bytes, 'base64'))
    const expected = new Float32Array(Uint8Array.from(Buffer.from(vector.numbers, 'base64')).buffer)
    const blocks = bytes.byteLength / codec.bytes
    assert.equal(blocks * codec.numbers, expected.length)
    const shifted = new Uint8Array(bytes.byteLength + 1)
    shifted.set(bytes, 1)
    const numbers = new Float32Array(expected.length + 2)
    assert.equal(codec.decode(shifted, 1, blocks, numbers, 2), true)
    assert.deepEqual(numbers.subarray(2), expected)
  })
}

test('says when a factor is not finite', () => {
  for (const type of ['Q8_0', 'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q4_K', 'Q5_K', 'Q6_K', 'GGML_MXFP4'] as const) {
    const codec = CODECS[type]
    assert.equal(codec.decode(new Uint8Array(codec.bytes).fill(0xff), 0, 1, new Float32Array(codec.numbers), 0), false, type)
    assert.equal(codec.decode(new Uint8Array(codec.bytes), 0, 1, new Float32Array(codec.numbers), 0), true, type)
  }
})
