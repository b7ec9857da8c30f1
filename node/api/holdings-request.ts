import { z } from 'zod'
import { InvalidRequestError } from '../errors.ts'
import { LIMITS } from './limits.ts'

const holdSchema = z.strictObject({
  model: z.string().min(1).max(LIMITS.modelNameChars),
  what: z.string().min(1).max(LIMITS.holdingsChars),
  pin: z.boolean().default(false),
})
const releaseSchema = z.strictObject({
  model: z.string().min(1).max(LIMITS.modelNameChars),
  what: z.string().min(1).max(LIMITS.holdingsChars),
  force: z.boolean().default(false),
})

/** Throws `InvalidRequestError` naming the field. */
export function parseHoldRequest(body: unknown): z.infer<typeof holdSchema> {
  return parse(holdSchema, body)
}

/** Throws `InvalidRequestError` naming the field. */
export function parseReleaseRequest(body: unknown): z.infer<typeof releaseSchema> {
  return parse(releaseSchema, body)
}

function parse<T>(schema: z.ZodType<T>, body: unknown): T {
  const parsed = schema.safeParse(body)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  const field = issue?.path.join('.') ?? ''
  throw new InvalidRequestError(`${field === '' ? 'The request' : field}: ${issue?.message ?? 'is not what is expected'}`, field || null)
}
