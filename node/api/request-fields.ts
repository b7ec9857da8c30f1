import { randomInt } from 'node:crypto'
import { z } from 'zod'
import type { QueryRequest, Sampling } from '../driver/query.ts'
import { InvalidRequestError } from '../errors.ts'
import { LIMITS } from './limits.ts'

/** A request of either endpoint, checked and turned into queries. */
export interface Asked {
  /** One per choice, in the order of `index`: the choices of the first prompt, then those of the next. */
  readonly queries: readonly QueryRequest[]
  readonly choicesPerPrompt: number
  readonly stream: boolean
  readonly includeUsage: boolean
}

/**
 * An array of at most `max` items, checked up to the first bad one: zod's own arrays are checked to the end,
 * which makes millions of issues of a few megabytes of nonsense.
 */
export function listOf<T>(item: z.ZodType<T>, max: number, min = 0): z.ZodType<T[]> {
  return z
    .array(z.unknown())
    .min(min)
    .max(max)
    .transform((values, context) => {
      const items: T[] = []
      for (const [index, value] of values.entries()) {
        const result = item.safeParse(value)
        if (!result.success) {
          const issue = result.error.issues[0] as z.core.$ZodIssue
          context.issues.push({ ...issue, input: value, path: [index, ...issue.path] } as z.core.$ZodRawIssue)
          return z.NEVER
        }
        items.push(result.data)
      }
      return items
    })
}

const stopString = z.string().min(1).max(LIMITS.stopChars)

/** Fields that both endpoints take. Those that are missing or null fall back to the model's defaults. */
export const COMMON_FIELDS = {
  model: z.string().min(1).max(LIMITS.modelNameChars),
  max_tokens: z.int().min(1).nullish(),
  temperature: z.number().min(0).max(2).nullish(),
  top_p: z.number().min(0).max(1).nullish(),
  top_k: z.int().min(0).nullish(),
  min_p: z.number().min(0).max(1).nullish(),
  repetition_penalty: z.number().gt(0).max(2).nullish(),
  frequency_penalty: z.number().min(-2).max(2).nullish(),
  presence_penalty: z.number().min(-2).max(2).nullish(),
  seed: z.int().nullish(),
  stop: z.union([stopString, listOf(stopString, LIMITS.stops)]).nullish(),
  n: z.int().min(1).max(LIMITS.choicesPerPrompt).nullish(),
  stream: z.boolean().nullish(),
  stream_options: z.object({ include_usage: z.boolean().nullish() }).nullish(),
  skein: z.strictObject({ wire: z.enum(['f32', 'f16', 'i8']).optional(), combine: z.enum(['host', 'driver']).optional() }).nullish(),
}

const commonSchema = z.object(COMMON_FIELDS)
type CommonFields = z.infer<typeof commonSchema>

/** Fields that would change the answer if they were obeyed, and the values with which they would not. */
const HARMLESS: Readonly<Record<string, (value: unknown) => boolean>> = {
  tools: isEmpty,
  tool_choice: (value) => value === 'none',
  functions: isEmpty,
  function_call: (value) => value === 'none',
  response_format: (value) => typeof value === 'object' && value !== null && 'type' in value && value.type === 'text',
  logit_bias: isEmpty,
  audio: isEmpty,
  modalities: (value) => Array.isArray(value) && value.every((kind) => kind === 'text'),
  reasoning_effort: (value) => value === 'none',
  verbosity: (value) => value === 'medium',
  web_search_options: () => false,
  echo: (value) => value === false,
  suffix: (value) => value === '',
  best_of: (value) => value === 1,
  ignore_eos: (value) => value === false,
  min_tokens: (value) => value === 0,
}

function isEmpty(value: unknown): boolean {
  return typeof value === 'object' && value !== null && Object.keys(value).length === 0
}

/** Checks a body. Throws `InvalidRequestError` naming the first offending field, also one that we can't obey. */
export function parseFields<T>(schema: z.ZodType<T>, body: unknown): T {
  if (typeof body !== 'object' || body === null || Array.isArray(body)) {
    throw new InvalidRequestError('The request body must be a JSON object.', null, 'invalid_type')
  }
  for (const [field, value] of Object.entries(body)) {
    const harmless = Object.hasOwn(HARMLESS, field) ? HARMLESS[field] : undefined
    if (harmless === undefined || value === null || harmless(value)) continue
    throw new InvalidRequestError(`'${field}' is not supported with this value; leave it out.`, field, 'unsupported_parameter')
  }
  const result = schema.safeParse(body)
  if (result.success) return result.data
  const issue = deepest(result.error.issues[0] as z.core.$ZodIssue)
  const param = issue.path.reduce<string>((path, key) => path + (typeof key === 'number' ? `[${key}]` : `${path && '.'}${String(key)}`), '')
  const isMistyped = issue.code === 'invalid_type' || issue.code === 'invalid_union'
  if (isMistyped && valueAt(body, issue.path) === undefined) {
    throw new InvalidRequestError(`Missing required parameter: '${param}'.`, param, 'missing_required_parameter')
  }
  throw new InvalidRequestError(`Invalid value for '${param}': ${issue.message}.`, param, isMistyped ? 'invalid_type' : 'invalid_value')
}

/** Of a union's branches, what is wrong with the one that the value comes nearest to. */
function deepest(issue: z.core.$ZodIssue): z.core.$ZodIssue {
  if (issue.code !== 'invalid_union') return issue
  let best: z.core.$ZodIssue | null = null
  for (const [first] of issue.errors) {
    if (first === undefined) continue
    const inner = deepest({ ...first, path: [...issue.path, ...first.path] })
    const fits = inner.path.length > issue.path.length || inner.code !== 'invalid_type'
    if (fits && (best === null || inner.path.length > best.path.length)) best = inner
  }
  return best ?? issue
}

function valueAt(body: unknown, path: readonly PropertyKey[]): unknown {
  let value = body
  for (const key of path) value = typeof value === 'object' && value !== null ? (value as Record<PropertyKey, unknown>)[key] : undefined
  return value
}

/** What belongs to one endpoint alone. */
export interface OwnFields {
  /** One per prompt. */
  readonly inputs: readonly QueryRequest['input'][]
  readonly maxTokens: number | null
  readonly logprobs: number | null
}

/** Turns checked fields into queries. Throws `InvalidRequestError` for too many choices in all. */
export function toAsked(fields: CommonFields, own: OwnFields): Asked {
  const n = fields.n ?? 1
  const total = n * own.inputs.length
  if (total > LIMITS.choices) {
    throw new InvalidRequestError(
      `'n' is too large: ${own.inputs.length} prompts with ${n} choices each are more than ${LIMITS.choices} choices.`,
      'n',
      'invalid_value',
    )
  }
  // Drawn here when there are several choices, so that the reported seed repeats all of them.
  const seed = fields.seed ?? (n > 1 ? randomInt(2 ** 32) : null)
  const stop = fields.stop ?? []
  const base = {
    model: fields.model,
    maxTokens: own.maxTokens,
    stop: typeof stop === 'string' ? [stop] : stop,
    logprobs: own.logprobs,
    ...(fields.skein?.wire && { wire: fields.skein.wire }),
    ...(fields.skein?.combine && { combine: fields.skein.combine }),
  }
  const sampling = samplingOf(fields)
  return {
    queries: own.inputs.flatMap((input) =>
      Array.from({ length: n }, (_, index) => ({
        ...base,
        input,
        sampling: seed === null ? sampling : { ...sampling, seed: choiceSeed(seed, index) },
      })),
    ),
    choicesPerPrompt: n,
    stream: fields.stream ?? false,
    includeUsage: fields.stream_options?.include_usage ?? false,
  }
}

/** Seed of a prompt's choice: the request's own for the first, its successors for the others. */
function choiceSeed(seed: number, index: number): number {
  return index === 0 ? seed : (seed + index) % Number.MAX_SAFE_INTEGER
}

function samplingOf(fields: CommonFields): Partial<Sampling> {
  const given: { [K in keyof Sampling]: number | null | undefined } = {
    temperature: fields.temperature,
    topK: fields.top_k,
    topP: fields.top_p,
    minP: fields.min_p,
    repetitionPenalty: fields.repetition_penalty,
    frequencyPenalty: fields.frequency_penalty,
    presencePenalty: fields.presence_penalty,
    seed: undefined,
  }
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== null && value !== undefined))
}
