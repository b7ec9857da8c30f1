/**
 * How texts are cut into words before byte-pair encoding, by the name that GGUF files give in `tokenizer.ggml.pre`. The patterns are those
 * of the models' own tokenizer.json files.
 */
export interface PreTokenizer {
  readonly normalizer: unknown
  readonly steps: readonly unknown[]
  /** Whether a word that is a token is taken whole without looking at merges. */
  readonly ignoreMerges: boolean
}

const NFC = { type: 'NFC' }
const BYTES = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }
/** Bytes after GPT-2's own pattern. */
const GPT2 = { ...BYTES, use_regex: true }
const DIGIT = { type: 'Digits', individual_digits: true }

const CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
const qwenLike = (digits: string): string =>
  `${CONTRACTIONS}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`
const O200K = [
  `[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+${CONTRACTIONS}?`,
  `[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*${CONTRACTIONS}?`,
  '\\p{N}{1,3}',
  ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*',
  '\\s*[\\r\\n]+',
  '\\s+(?!\\S)',
  '\\s+',
].join('|')
const DEEPSEEK3 = [
  '\\p{N}{1,3}',
  '[一-龥\u3040-ゟ゠-ヿ]+',
  '[!"#$%&\'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+',
]

const gpt2: PreTokenizer = { normalizer: null, steps: [GPT2], ignoreMerges: false }
const olmo: PreTokenizer = { normalizer: NFC, steps: [GPT2], ignoreMerges: false }
const qwen2: PreTokenizer = { normalizer: NFC, steps: [split(qwenLike('\\p{N}')), BYTES], ignoreMerges: false }
const llama3: PreTokenizer = { normalizer: null, steps: [split(qwenLike('\\p{N}{1,3}')), BYTES], ignoreMerges: true }
const glm4: PreTokenizer = { ...llama3, ignoreMerges: false }
const gpt4o: PreTokenizer = { normalizer: null, steps: [split(O200K), BYTES], ignoreMerges: true }
const deepseek3: PreTokenizer = { normalizer: null, steps: [...DEEPSEEK3.map(split), BYTES], ignoreMerges: false }
const refact: PreTokenizer = { normalizer: null, steps: [DIGIT, GPT2], ignoreMerges: false }

export const PRE_TOKENIZERS: Readonly<Record<string, PreTokenizer>> = {
  'gpt-2': gpt2,
  olmo,
  qwen2,
  'llama-bpe': llama3,
  'llama-v3': llama3,
  llama3,
  glm4: glm4,
  'chatglm-bpe': glm4,
  'gpt-4o': gpt4o,
  'deepseek-v3': deepseek3,
  refact,
  starcoder: refact,
}

function split(pattern: string): unknown {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false }
}
