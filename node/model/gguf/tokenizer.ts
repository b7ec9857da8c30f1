import { ModelError } from '../../errors.ts'
import type { GgufMetadata } from './metadata.ts'
import { PRE_TOKENIZERS } from './pre-tokenizers.ts'
import { sentencePieceMerges } from './sentence-piece.ts'

/** Kinds of tokens, as llama.cpp numbers them. */
const KIND = Object.freeze({ unknown: 2, control: 3, userDefined: 4 })
const BYTE_LEVEL = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: false, use_regex: false }
/** What SentencePiece writes for a space. */
const SPACE = '▁'

/** A tokenizer as Hugging Face's files tokenizer.json and tokenizer_config.json hold it. */
export interface TokenizerDefinition {
  readonly definition: Readonly<Record<string, unknown>>
  readonly settings: Readonly<Record<string, unknown>>
}

/** Rebuilds the tokenizer from a GGUF file's metadata; undefined when it has none. Throws `ModelError` for a kind that is not known. */
export function ggufTokenizer(metadata: GgufMetadata): TokenizerDefinition | undefined {
  const model = metadata.text('tokenizer.ggml.model')
  const tokens = metadata.texts('tokenizer.ggml.tokens')
  if (model === undefined || tokens === undefined) return undefined
  if (model !== 'gpt2' && model !== 'llama') throw unknown(metadata, `tokenizer.ggml.model ${model}`, ['gpt2', 'llama'])
  const kinds = metadata.numbers('tokenizer.ggml.token_type') ?? []
  const special = (kind: string): string | undefined => tokens[metadata.number(`tokenizer.ggml.${kind}_token_id`) ?? -1]
  const bos = special('bos')
  const pre = metadata.text('tokenizer.ggml.pre') ?? 'default'
  const addsBos = metadata.flag('tokenizer.ggml.add_bos_token') ?? (model === 'llama' || pre.startsWith('llama'))
  const startsWith = addsBos && bos !== undefined ? bos : undefined
  const base = model === 'gpt2' ? bytePairs(metadata, tokens, kinds, pre) : sentencePieces(metadata, tokens, kinds)
  return {
    definition: {
      version: '1.0',
      truncation: null,
      padding: null,
      added_tokens: addedTokens(tokens, kinds),
      ...base,
      post_processor: startsWith === undefined ? base.post_processor : startingWith(startsWith, tokens.indexOf(startsWith)),
    },
    settings: {
      bos_token: bos ?? null,
      eos_token: special('eos') ?? null,
      unk_token: special('unknown') ?? null,
      pad_token: special('padding') ?? null,
      add_bos_token: startsWith !== undefined,
      clean_up_tokenization_spaces: false,
      ...chatTemplate(metadata),
    },
  }
}

interface Parts {
  readonly normalizer: unknown
  readonly pre_tokenizer: unknown
  readonly post_processor: unknown
  readonly decoder: unknown
  readonly model: Readonly<Record<string, unknown>>
}

function bytePairs(metadata: GgufMetadata, tokens: readonly string[], kinds: readonly number[], pre: string): Parts {
  const way = Object.hasOwn(PRE_TOKENIZERS, pre) ? PRE_TOKENIZERS[pre] : undefined
  if (way === undefined) throw unknown(metadata, `tokenizer.ggml.pre ${pre}`, Object.keys(PRE_TOKENIZERS))
  const merges = metadata.required('tokenizer.ggml.merges', metadata.texts('tokenizer.ggml.merges'))
  return {
    normalizer: way.normalizer,
    pre_tokenizer: { type: 'Sequence', pretokenizers: way.steps },
    post_processor: BYTE_LEVEL,
    decoder: BYTE_LEVEL,
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: '',
      end_of_word_suffix: '',
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: way.ignoreMerges,
      vocab: vocabulary(tokens, (id) => !isAdded(kinds[id])),
      merges,
    },
  }
}

function sentencePieces(metadata: GgufMetadata, tokens: readonly string[], kinds: readonly number[]): Parts {
  const scores = metadata.required('tokenizer.ggml.scores', metadata.numbers('tokenizer.ggml.scores'))
  if (scores.length !== tokens.length) {
    throw new ModelError(`${metadata.path}: ${scores.length} tokenizer.ggml.scores for ${tokens.length} tokens: get the file again`)
  }
  const toSpace = { type: 'Replace', pattern: { String: ' ' }, content: SPACE }
  const addsSpace = metadata.flag('tokenizer.ggml.add_space_prefix') ?? true
  const unknownToken = tokens[metadata.number('tokenizer.ggml.unknown_token_id') ?? kinds.indexOf(KIND.unknown)] ?? null
  const trim = addsSpace ? [{ type: 'Strip', content: ' ', start: 1, stop: 0 }] : []
  return {
    normalizer: { type: 'Sequence', normalizers: [...(addsSpace ? [{ type: 'Prepend', prepend: SPACE }] : []), toSpace] },
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: 'Sequence',
      decoders: [{ type: 'Replace', pattern: { String: SPACE }, content: ' ' }, { type: 'ByteFallback' }, { type: 'Fuse' }, ...trim],
    },
    model: {
      type: 'BPE',
      dropout: null,
      unk_token: unknownToken,
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: vocabulary(tokens, () => true),
      merges: sentencePieceMerges(tokens, scores),
    },
  }
}

function vocabulary(tokens: readonly string[], belongs: (id: number) => boolean): Record<string, number> {
  const vocab: Record<string, number> = Object.create(null) as Record<string, number>
  for (const [id, token] of tokens.entries()) if (belongs(id)) vocab[token] = id
  return vocab
}

function isAdded(kind: number | undefined): boolean {
  return kind === KIND.control || kind === KIND.userDefined
}

function addedTokens(tokens: readonly string[], kinds: readonly number[]): unknown[] {
  return tokens.flatMap((content, id) => {
    const kind = kinds[id]
    if (!isAdded(kind) && kind !== KIND.unknown) return []
    return [{ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: kind !== KIND.userDefined }]
  })
}

function startingWith(token: string, id: number): unknown {
  const start = { SpecialToken: { id: token, type_id: 0 } }
  return {
    type: 'TemplateProcessing',
    single: [start, { Sequence: { id: 'A', type_id: 0 } }],
    pair: [start, { Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }],
    special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } },
  }
}

function chatTemplate(metadata: GgufMetadata): { chat_template?: string } {
  const template = metadata.text('tokenizer.chat_template')
  return template === undefined ? {} : { chat_template: template }
}

function unknown({ path }: GgufMetadata, what: string, known: readonly string[]): ModelError {
  return new ModelError(
    `${path}: ${what} is not known (known: ${known.join(', ')}): put the original model's tokenizer.json beside the file`,
  )
}
