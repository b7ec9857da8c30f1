import { z } from 'zod'
import type { QueryRequest } from '../driver/query.ts'
import { COMPLETION_MAX_TOKENS, LIMITS } from './limits.ts'
import { COMMON_FIELDS, listOf, parseFields, toAsked, type Asked } from './request-fields.ts'

const completionSchema = z.object({
  ...COMMON_FIELDS,
  prompt: z.unknown(),
  logprobs: z.int().min(0).max(LIMITS.topLogprobs).nullish(),
})

type Input = QueryRequest['input']

const textInput = z
  .string({ error: 'expected a string, an array of strings, an array of token ids or an array of such arrays' })
  .transform((text): Input => ({ kind: 'text', text }))
const tokensInput = listOf(z.int().min(0), LIMITS.promptTokens, 1).transform((ids): Input => ({ kind: 'tokens', ids }))

/** Checks a body of POST /v1/completions. Throws `InvalidRequestError`. */
export function parseCompletionRequest(body: unknown): Asked {
  const fields = parseFields(completionSchema, body)
  const { prompt } = parseFields(z.object({ prompt: inputsSchema(fields.prompt) }), body)
  return toAsked(fields, {
    inputs: prompt,
    maxTokens: fields.max_tokens ?? COMPLETION_MAX_TOKENS,
    logprobs: fields.logprobs ?? null,
  })
}

/** Of the four kinds of prompt, the one that it begins as: a union would complain about the kinds that nobody meant. */
function inputsSchema(prompt: unknown): z.ZodType<Input[]> {
  if (!Array.isArray(prompt)) return textInput.transform((input) => [input])
  if (typeof prompt[0] === 'number') return tokensInput.transform((input) => [input])
  return listOf(Array.isArray(prompt[0]) ? tokensInput : textInput, LIMITS.choices, 1)
}
