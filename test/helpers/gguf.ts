/** Numbers that GGUF gives to kinds of metadata values. */
export const VALUE = Object.freeze({ u8: 0, u32: 4, i32: 5, f32: 6, bool: 7, text: 8, list: 9, u64: 10 })
type Kind = keyof typeof VALUE

export type GgufValue =
  | readonly [kind: Exclude<Kind, 'list'>, value: number | bigint | boolean | string]
  | readonly ['list', Kind, readonly unknown[]]

export interface PlainGgufTensor {
  readonly name: string
  /** As PyTorch has it. */
  readonly shape: readonly number[]
  /** ggml's number of the type. */
  readonly type: number
  readonly data: Uint8Array
  /** Of the data, where it is to be another than it is. */
  readonly offset?: number
}

export interface PlainGguf {
  readonly metadata: Readonly<Record<string, GgufValue>>
  readonly tensors?: readonly PlainGgufTensor[]
}

const ALIGNMENT = 32

/** A GGUF file (version 3) of these values and tensors, whatever they say. */
export function ggufBytes({ metadata, tensors = [] }: PlainGguf): Buffer {
  const parts = [Buffer.from('GGUF'), u32(3), u64(tensors.length), u64(Object.keys(metadata).length)]
  for (const [key, value] of Object.entries(metadata)) parts.push(text(key), u32(VALUE[value[0]]), encode(value))
  let end = 0
  const data: Buffer[] = []
  for (const tensor of tensors) {
    parts.push(
      text(tensor.name),
      u32(tensor.shape.length),
      ...tensor.shape.toReversed().map(u64),
      u32(tensor.type),
      u64(tensor.offset ?? end),
    )
    const size = Math.ceil(tensor.data.byteLength / ALIGNMENT) * ALIGNMENT
    data.push(Buffer.concat([tensor.data, Buffer.alloc(size - tensor.data.byteLength)]))
    end += size
  }
  const header = Buffer.concat(parts)
  const padding = Buffer.alloc((ALIGNMENT - (header.byteLength % ALIGNMENT)) % ALIGNMENT)
  return Buffer.concat([header, padding, ...data])
}

function encode(value: GgufValue): Buffer {
  if (value[0] === 'list') {
    const [, kind, items] = value
    return Buffer.concat([u32(VALUE[kind]), u64(items.length), ...items.map((item) => encode([kind, item] as GgufValue))])
  }
  const [kind, plain] = value
  if (kind === 'text') return text(plain as string)
  if (kind === 'bool' || kind === 'u8') return Buffer.of(Number(plain))
  if (kind === 'u64') return u64(plain as number)
  const bytes = Buffer.alloc(4)
  if (kind === 'f32') bytes.writeFloatLE(plain as number)
  else if (kind === 'i32') bytes.writeInt32LE(plain as number)
  else bytes.writeUInt32LE(plain as number)
  return bytes
}

function text(value: string): Buffer {
  const bytes = Buffer.from(value)
  return Buffer.concat([u64(bytes.byteLength), bytes])
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function u64(value: number | bigint): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

/** Metadata of a byte-pair tokenizer, from a Hugging Face tokenizer.json and tokenizer_config.json. */
export function tokenizerMetadata(
  definition: {
    readonly model: { readonly vocab: Readonly<Record<string, number>>; readonly merges: readonly string[] }
    readonly added_tokens: readonly { readonly id: number; readonly content: string; readonly special: boolean }[]
  },
  settings: { readonly eos_token?: string; readonly chat_template?: string },
  pre: string,
): Record<string, GgufValue> {
  const size = Object.keys(definition.model.vocab).length + definition.added_tokens.length
  const tokens = Array.from({ length: size }, () => '')
  const kinds = Array.from({ length: size }, () => 1)
  for (const [token, id] of Object.entries(definition.model.vocab)) tokens[id] = token
  for (const { id, content, special } of definition.added_tokens) {
    tokens[id] = content
    kinds[id] = special ? 3 : 4
  }
  return {
    'tokenizer.ggml.model': ['text', 'gpt2'],
    'tokenizer.ggml.pre': ['text', pre],
    'tokenizer.ggml.tokens': ['list', 'text', tokens],
    'tokenizer.ggml.token_type': ['list', 'i32', kinds],
    'tokenizer.ggml.merges': ['list', 'text', definition.model.merges],
    ...(settings.eos_token === undefined ? {} : { 'tokenizer.ggml.eos_token_id': ['u32', tokens.indexOf(settings.eos_token)] }),
    ...(settings.chat_template === undefined ? {} : { 'tokenizer.chat_template': ['text', settings.chat_template] }),
  }
}
