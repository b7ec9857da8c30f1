import { Tokenizer as HfTokenizer } from '@huggingface/tokenizers'
import type { ChatMessage } from '../driver/query.ts'
import { InvalidRequestError, ModelError } from '../errors.ts'
import { compileChatTemplate, findChatTemplate } from './chat-template.ts'
import type { ChatTemplate } from './chat-template.ts'
import { createDecodeStream } from './decode-stream.ts'
import type { DecodeStream } from './decode-stream.ts'
import { parseJsonObject, readSmallFile } from './files.ts'
import type { ModelConfig } from './manifest.ts'
import { MODEL_LIMITS } from './model-limits.ts'
import type { ModelPackage } from './package.ts'
import type { TokenizerFile } from './tokenizer-files.ts'

export interface Tokenizer {
  /**
   * Ids of a text, with what the model puts before every text. Names of control tokens (`<|im_end|>`) in it become those tokens.
   * Throws `InvalidRequestError` when it can't fit the model's context whatever its tokens.
   */
  encode(text: string): number[]
  /**
   * Ids of a conversation, ready for the assistant's answer. Names of control tokens inside messages stay plain text.
   * Throws `InvalidRequestError` when the model has no chat template, the template refuses, or the text can't fit the context;
   * `ModelError` when the template can't be parsed.
   */
  encodeChat(messages: readonly ChatMessage[]): number[]
  /** `context`: the tokens that the decoded ones continue, where the answer continues a text. */
  decodeStream(context?: readonly number[]): DecodeStream
  /** The token's own text, control tokens by name; U+FFFD for incomplete UTF-8, empty for an id outside the vocabulary. */
  tokenText(id: number): string
  isEndOfSequence(id: number): boolean
}

/** Variables that chat templates use, by their names in tokenizer_config.json. */
const SPECIAL_TOKEN_FIELDS = ['bos_token', 'eos_token', 'pad_token', 'unk_token'] as const
/** Put inside a control token's name to keep it from being recognised; removed again before encoding. */
const ESCAPE = '\u{10FFFD}'
/** Unicode normalisation shortens a text at most about threefold. */
const NORMALISATION_FACTOR = 4

/** Opens a package's tokenizer. Throws `ModelError` when it has none, or one that can't be read. */
export async function openTokenizer(model: ModelPackage): Promise<Tokenizer> {
  const { name, config } = model.manifest
  const tokenizerJson = await readTokenizerFile(model, 'tokenizer.json')
  if (tokenizerJson === undefined) {
    throw new ModelError(`model ${name} was packed without a tokenizer: add tokenizer.json to its checkpoint and pack it again`)
  }
  const definition = parseJsonObject(tokenizerJson, `tokenizer.json of ${name}`)
  const settingsText = await readTokenizerFile(model, 'tokenizer_config.json')
  const settings = settingsText === undefined ? {} : parseJsonObject(settingsText, `tokenizer_config.json of ${name}`)
  const template = findChatTemplate(await readTokenizerFile(model, 'chat_template.jinja'), settings)
  try {
    return new PackageTokenizer(name, config, definition, settings, template)
  } catch (error) {
    throw new ModelError(`the tokenizer of ${name} can't be used: ${(error as Error).message}`, { cause: error })
  }
}

class PackageTokenizer implements Tokenizer {
  readonly #name: string
  readonly #config: ModelConfig
  readonly #full: HfTokenizer
  /** Knows no control tokens: reads their names as plain text. */
  readonly #plain: HfTokenizer
  readonly #control: { readonly pattern: RegExp; readonly ids: ReadonlyMap<string, number> } | undefined
  readonly #variables: Record<string, string>
  readonly #templateSource: string | undefined
  readonly #ends: ReadonlySet<number>
  readonly #maxLength: number
  #template: ChatTemplate | undefined

  constructor(
    name: string,
    config: ModelConfig,
    definition: Record<string, unknown>,
    settings: Record<string, unknown>,
    template: string | undefined,
  ) {
    this.#name = name
    this.#config = config
    this.#full = new HfTokenizer(definition, settings)
    const added = Array.isArray(definition['added_tokens']) ? (definition['added_tokens'] as { special?: unknown }[]) : []
    this.#plain = new HfTokenizer({ ...definition, added_tokens: added.filter((token) => token.special !== true) }, settings)
    this.#control = controlTokens(this.#full)
    this.#variables = specialTokenVariables(settings)
    this.#templateSource = template
    const end = this.#full.token_to_id(this.#variables['eos_token'] ?? '')
    this.#ends = new Set(end === undefined ? config.eosTokenIds : [...config.eosTokenIds, end])
    this.#maxLength = config.maxContext * longestToken(this.#full) * NORMALISATION_FACTOR
  }

  encode(text: string): number[] {
    this.#checkLength(text.length)
    return this.#checkIds(this.#full.encode(text).ids)
  }

  encodeChat(messages: readonly ChatMessage[]): number[] {
    if (this.#templateSource === undefined) {
      throw new InvalidRequestError(`model ${this.#name} has no chat template: use text completions`, 'messages')
    }
    this.#checkLength(messages.reduce((sum, { content }) => sum + content.length, 0))
    this.#template ??= compileChatTemplate(this.#templateSource, this.#variables)
    const control = this.#control
    const escaped = messages.map(({ role, content }) => ({ role: this.#escape(role), content: this.#escape(content) }))
    const text = this.#template.render(escaped, { addGenerationPrompt: true })
    // The template writes the start of text itself where the model wants one, hence no special tokens added here.
    if (control === undefined || !text.includes(ESCAPE)) return this.#checkIds(this.#full.encode(text, { add_special_tokens: false }).ids)
    const ids = text.split(control.pattern).flatMap((section) => {
      const id = control.ids.get(section)
      if (id !== undefined) return [id]
      return section === '' ? [] : this.#plain.encode(section.replaceAll(ESCAPE, ''), { add_special_tokens: false }).ids
    })
    return this.#checkIds(ids)
  }

  decodeStream(context?: readonly number[]): DecodeStream {
    return createDecodeStream((ids) => this.#decode(ids, true), context)
  }

  tokenText(id: number): string {
    return this.#decode([id], false)
  }

  isEndOfSequence(id: number): boolean {
    return this.#ends.has(id)
  }

  #decode(ids: readonly number[], withoutControl: boolean): string {
    const known = ids.filter((id) => this.#full.id_to_token(id) !== undefined)
    // The library's default would tidy spaces before punctuation, which is not what the model wrote.
    return known.length === 0 ? '' : this.#full.decode(known, { skip_special_tokens: withoutControl, clean_up_tokenization_spaces: false })
  }

  #escape(text: string): string {
    if (this.#control === undefined) return text
    return text.replaceAll(this.#control.pattern, (token) => `${token.slice(0, 1)}${ESCAPE}${token.slice(1)}`)
  }

  #checkLength(length: number): void {
    if (length > this.#maxLength) {
      throw new InvalidRequestError(
        `a prompt of ${length} characters can't fit the context of ${this.#config.maxContext} tokens: shorten it`,
        null,
        'context_length_exceeded',
      )
    }
  }

  /** Ids come from a file that may not belong to the weights. */
  #checkIds(ids: readonly (number | undefined)[]): number[] {
    for (const id of ids) {
      if (id === undefined || !Number.isSafeInteger(id) || id < 0 || id >= this.#config.vocabSize) {
        throw new ModelError(
          `the tokenizer of ${this.#name} gives token ${id}, outside the vocabulary of ${this.#config.vocabSize}: pack it with its own tokenizer`,
        )
      }
    }
    return ids as number[]
  }
}

async function readTokenizerFile(model: ModelPackage, name: TokenizerFile): Promise<string | undefined> {
  const blob = model.manifest.blobs.find((entry) => entry.role === 'tokenizer' && entry.name === name)
  if (blob === undefined) return undefined
  return (await readSmallFile(await model.blobPath(blob.cid), MODEL_LIMITS.tokenizerFileBytes))?.toString('utf8')
}

/** Control tokens by name, and a pattern that finds them; the longer of two that begin alike wins. */
function controlTokens(tokenizer: HfTokenizer): { pattern: RegExp; ids: Map<string, number> } | undefined {
  const ids = new Map<string, number>()
  // A name of one character can't be escaped from within.
  for (const [id, token] of tokenizer.get_added_tokens_decoder()) if (token.special && token.content.length > 1) ids.set(token.content, id)
  if (ids.size === 0) return undefined
  const names = [...ids.keys()].sort((a, b) => b.length - a.length).map((name) => RegExp.escape(name))
  return { pattern: new RegExp(`(${names.join('|')})`, 'gu'), ids }
}

function specialTokenVariables(settings: Record<string, unknown>): Record<string, string> {
  const variables: Record<string, string> = {}
  for (const field of SPECIAL_TOKEN_FIELDS) {
    const value = settings[field]
    const content = typeof value === 'object' && value !== null && 'content' in value ? value.content : value
    if (typeof content === 'string') variables[field] = content
  }
  return variables
}

function longestToken(tokenizer: HfTokenizer): number {
  let longest = 1
  for (const token of tokenizer.get_vocab().keys()) longest = Math.max(longest, token?.length ?? 0)
  return longest
}
