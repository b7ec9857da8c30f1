import { Template } from '@huggingface/jinja'
import type { ChatMessage } from '../driver/query.ts'
import { InvalidRequestError, ModelError } from '../errors.ts'

const MAX_TEMPLATE_LENGTH = 1 << 20

export interface RenderOptions {
  /** Ends the prompt with the opening of the assistant's turn. */
  readonly addGenerationPrompt: boolean
}

/** A model's way of writing a conversation as one text. */
export interface ChatTemplate {
  /** Throws `InvalidRequestError` when the template refuses the messages (`raise_exception`). */
  render(messages: readonly ChatMessage[], options: RenderOptions): string
}

/**
 * Compiles a Jinja chat template; `variables` are the names of special tokens (`bos_token`) that templates use.
 * Throws `ModelError` when it can't be parsed.
 */
export function compileChatTemplate(source: string, variables: Readonly<Record<string, string>>): ChatTemplate {
  if (source.length > MAX_TEMPLATE_LENGTH)
    throw new ModelError(`the chat template has ${source.length} characters, more than ${MAX_TEMPLATE_LENGTH}`)
  let template: Template
  try {
    template = new Template(source)
  } catch (error) {
    throw new ModelError(
      `the model's chat template can't be parsed (${(error as Error).message}): use text completions, or correct the template`,
      {
        cause: error,
      },
    )
  }
  return {
    render: (messages, options) => {
      try {
        return template.render({
          ...variables,
          messages: messages.map(({ role, content }) => ({ role, content })),
          add_generation_prompt: options.addGenerationPrompt,
        })
      } catch (error) {
        throw new InvalidRequestError(`the model's chat template refuses these messages: ${(error as Error).message}`, 'messages')
      }
    },
  }
}

/** The template's source among the package's tokenizer files: its own file, or the (default) one of tokenizer_config.json. */
export function findChatTemplate(file: string | undefined, tokenizerConfig: Readonly<Record<string, unknown>>): string | undefined {
  if (file !== undefined) return file
  const field = tokenizerConfig['chat_template']
  if (typeof field === 'string') return field
  if (!Array.isArray(field)) return undefined
  const named = field.find((item: unknown) => typeof item === 'object' && item !== null && 'name' in item && item.name === 'default') as
    | { template?: unknown }
    | undefined
  return typeof named?.template === 'string' ? named.template : undefined
}
