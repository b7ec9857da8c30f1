import { z } from 'zod'
import type { ChatMessage } from '../driver/query.ts'
import { InvalidRequestError } from '../errors.ts'
import { LIMITS } from './limits.ts'
import { COMMON_FIELDS, listOf, parseFields, toAsked, type Asked } from './request-fields.ts'

const textPart = z.object({ type: z.literal('text', { error: "only parts of type 'text' are supported" }), text: z.string() })

const message = z.object({
  role: z.enum(['system', 'developer', 'user', 'assistant']),
  content: z.union([z.string(), listOf(textPart, LIMITS.parts, 1)], { error: 'expected a string or an array of text parts' }),
  tool_calls: z.array(z.unknown()).max(0, { error: 'tool calls are not supported' }).nullish(),
})

const chatSchema = z.object({
  ...COMMON_FIELDS,
  messages: listOf(message, LIMITS.messages, 1),
  max_completion_tokens: z.int().min(1).nullish(),
  logprobs: z.boolean().nullish(),
  top_logprobs: z.int().min(0).max(LIMITS.topLogprobs).nullish(),
})

/** Checks a body of POST /v1/chat/completions. Throws `InvalidRequestError`. */
export function parseChatRequest(body: unknown): Asked {
  const fields = parseFields(chatSchema, body)
  if (fields.logprobs !== true && (fields.top_logprobs ?? 0) > 0) {
    throw new InvalidRequestError("'top_logprobs' needs 'logprobs' to be true.", 'top_logprobs', 'invalid_value')
  }
  const messages = fields.messages.map(({ role, content }): ChatMessage => ({
    // OpenAI's newer name of the same role, which chat templates don't know.
    role: role === 'developer' ? 'system' : role,
    content: typeof content === 'string' ? content : content.map((part) => part.text).join(''),
  }))
  return toAsked(fields, {
    inputs: [{ kind: 'chat', messages }],
    maxTokens: fields.max_completion_tokens ?? fields.max_tokens ?? null,
    logprobs: fields.logprobs === true ? (fields.top_logprobs ?? 0) : null,
  })
}
