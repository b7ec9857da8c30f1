import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { Tokenizer } from '@huggingface/tokenizers'
import { openGguf } from '../../../../node/model/gguf/checkpoint.ts'
import { GgufMetadata } from '../../../../node/model/gguf/metadata.ts'
import { PRE_TOKENIZERS } from '../../../../node/model/gguf/pre-tokenizers.ts'
import { ggufTokenizer } from '../../../../node/model/gguf/tokenizer.ts'
import { EMBER_CHECKPOINT } from '../../../helpers/checkpoint.ts'
import { ggufBytes, tokenizerMetadata } from '../../../helpers/gguf.ts'
import type { GgufValue } from '../../../helpers/gguf.ts'
import { temporaryDir } from '../../../helpers/temporary-dir.ts'

interface Definition {
  readonly model: { readonly vocab: Record<string, number>; readonly merges: string[] }
  readonly added_tokens: { id: number; content: string; special: boolean }[]
}

const TEXTS = [
  'Once upon a time there was a little dog.',
  "It's 12345 o'clock — I'M LATE!  don't\r\n\r\n\twait…",
  '<|im_start|>user\nHello<|im_end|>\n',
  'naïve café ﬁ 日本語 🐶👨‍👩‍👧 \u00A0x',
  '',
  '   leading and trailing   ',
]

async function emberTokenizer(): Promise<{ definition: Definition; settings: Record<string, string> }> {
  const read = async (name: string): Promise<unknown> => JSON.parse(await readFile(join(EMBER_CHECKPOINT, name), 'utf8'))
  return {
    definition: (await read('tokenizer.json')) as Definition,
    settings: (await read('tokenizer_config.json')) as Record<string, string>,
  }
}

/** The values without their kinds, as the reader gives them. */
function plainMetadata(values: Readonly<Record<string, GgufValue>>): GgufMetadata {
  return new GgufMetadata('model.gguf', Object.fromEntries(Object.entries(values).map(([key, value]) => [key, value.at(-1)])))
}

test('a byte-pair tokenizer comes back from the metadata as it was', async () => {
  const { definition, settings } = await emberTokenizer()
  const rebuilt = ggufTokenizer(plainMetadata(tokenizerMetadata(definition, settings, 'qwen2')))
  assert.ok(rebuilt)
  assert.equal(rebuilt.settings['chat_template'], settings['chat_template'])
  assert.equal(rebuilt.settings['eos_token'], '<|im_end|>')
  const original = new Tokenizer(definition, settings)
  const again = new Tokenizer(rebuilt.definition, rebuilt.settings)
  const story = await readFile(join(EMBER_CHECKPOINT, 'README.md'), 'utf8')
  for (const text of [...TEXTS, story]) {
    const { ids } = original.encode(text)
    assert.deepEqual(again.encode(text).ids, ids, JSON.stringify(text.slice(0, 40)))
    if (ids.length > 0) assert.equal(again.decode(ids, { skip_special_tokens: true }), original.decode(ids, { skip_special_tokens: true }))
  }
})

test('adds the start of text where the metadata asks for it', async () => {
  const { definition, settings } = await emberTokenizer()
  const values = tokenizerMetadata(definition, settings, 'qwen2')
  const asked = { 'tokenizer.ggml.bos_token_id': ['u32', 4093], 'tokenizer.ggml.add_bos_token': ['bool', true] } as const
  const rebuilt = ggufTokenizer(plainMetadata({ ...values, ...asked }))!
  const { ids } = new Tokenizer(rebuilt.definition, rebuilt.settings).encode('a')
  assert.equal(ids[0], 4093)
  assert.equal(ids.length, 2)
})

for (const pre of Object.keys(PRE_TOKENIZERS)) {
  test(`texts cut the way of ${pre} lose nothing`, async () => {
    const { definition, settings } = await emberTokenizer()
    const rebuilt = ggufTokenizer(plainMetadata(tokenizerMetadata(definition, settings, pre)))!
    const tokenizer = new Tokenizer(rebuilt.definition, rebuilt.settings)
    for (const text of TEXTS.slice(0, 2)) {
      assert.equal(tokenizer.decode(tokenizer.encode(text).ids, { clean_up_tokenization_spaces: false }), text)
    }
  })
}

test('a SentencePiece tokenizer gives the ids of SentencePiece', async () => {
  const file = new URL('../../../vectors/gguf/sentence-piece.json', import.meta.url)
  const vectors = JSON.parse(await readFile(file, 'utf8')) as {
    tokens: string[]
    scores: number[]
    kinds: number[]
    bos: number
    eos: number
    unk: number
    texts: { text: string; ids: number[] }[]
  }
  const rebuilt = ggufTokenizer(
    plainMetadata({
      'tokenizer.ggml.model': ['text', 'llama'],
      'tokenizer.ggml.tokens': ['list', 'text', vectors.tokens],
      'tokenizer.ggml.scores': ['list', 'f32', vectors.scores],
      'tokenizer.ggml.token_type': ['list', 'i32', vectors.kinds],
      'tokenizer.ggml.bos_token_id': ['u32', vectors.bos],
      'tokenizer.ggml.eos_token_id': ['u32', vectors.eos],
      'tokenizer.ggml.unknown_token_id': ['u32', vectors.unk],
    }),
  )!
  const tokenizer = new Tokenizer(rebuilt.definition, rebuilt.settings)
  assert.ok(vectors.texts.length > 20)
  for (const { text, ids } of vectors.texts) {
    // SentencePiece gives nothing for an empty text, Hugging Face's way the space that it puts before every text.
    if (text === '') continue
    assert.deepEqual(tokenizer.encode(text).ids, [vectors.bos, ...ids], JSON.stringify(text))
    assert.equal(tokenizer.decode(ids, { skip_special_tokens: true, clean_up_tokenization_spaces: false }), text)
  }
})

test('a kind that is not known is refused by name, unless tokenizer.json lies beside the file', async (t) => {
  const { definition, settings } = await emberTokenizer()
  const dir = await temporaryDir(t)
  const path = join(dir, 'model.gguf')
  const metadata: Record<string, GgufValue> = {
    'general.architecture': ['text', 'qwen3moe'],
    'qwen3moe.expert_count': ['u32', 4],
    ...tokenizerMetadata(definition, settings, 'of-the-future'),
  }
  await writeFile(path, ggufBytes({ metadata }))
  await assert.rejects(openGguf(path), {
    name: 'ModelError',
    message: /model\.gguf: tokenizer\.ggml\.pre of-the-future is not known .*tokenizer\.json beside/,
  })
  await writeFile(join(dir, 'tokenizer.json'), JSON.stringify(definition))
  assert.deepEqual(
    (await openGguf(path)).tokenizer.map(({ name }) => name),
    ['tokenizer.json'],
  )
})
