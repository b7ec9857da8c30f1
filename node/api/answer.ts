import { randomUUID } from 'node:crypto'
import type { QueryEvent, QueryReport, QueryRequest, QueryService } from '../driver/query.ts'
import type { Format, Part, TokenChoice } from './format.ts'
import type { ApiMetrics, Outcome } from './metrics.ts'
import { mergeReports } from './report.ts'
import type { Asked } from './request-fields.ts'

/** What answering a request takes. */
export interface AnswerInit {
  readonly queries: QueryService
  readonly metrics: ApiMetrics
  readonly asked: Asked
  readonly format: Format
  readonly signal: AbortSignal
}

type EndEvent = Extract<QueryEvent, { kind: 'end' }>

/**
 * Answers a request in one object. Choices are generated one after another: a full node then refuses a request
 * whole, and a choice's tokens don't depend on its neighbours. Throws what the query service throws.
 */
export async function answerWhole(init: AnswerInit): Promise<object> {
  const { asked, format } = init
  const usage = new Usage(asked.choicesPerPrompt)
  const choices: object[] = []
  const reports: QueryReport[] = []
  let model = ''
  for (const [index, query] of asked.queries.entries()) {
    let text = ''
    const logprobs: TokenChoice[] = []
    for await (const event of runQuery(init, query)) {
      if (event.kind === 'start') {
        model = event.model
        usage.prompt(index, event.promptTokens)
      } else if (event.kind === 'text') {
        text += event.text
        logprobs.push(...event.logprobs)
      } else {
        usage.completion(event.completionTokens)
        choices.push(format.choice(index, { text, logprobs: query.logprobs === null ? null : logprobs, offset: 0 }, event.finishReason))
        reports.push(event.report)
      }
    }
  }
  const head = newHead(format.idPrefix, format.object)
  return { ...head, model, choices, usage: usage.total(), skein: mergeReports(reports as [QueryReport, ...QueryReport[]]) }
}

/**
 * Answers a request as the chunks of a stream. The first step ends when the first query is accepted, so that what
 * fails before can still be answered with a status. Throws what the query service throws.
 */
export async function* answerStream(init: AnswerInit): AsyncGenerator<readonly object[], void> {
  const { asked, format } = init
  const usage = new Usage(asked.choicesPerPrompt)
  const head = newHead(format.idPrefix, format.chunkObject)
  // OpenAI sends `usage: null` beside the chunks that precede the one with the sums.
  const noUsage = asked.includeUsage ? { usage: null } : {}
  let model = ''
  for (const [index, query] of asked.queries.entries()) {
    let offset = 0
    for await (const event of runQuery(init, query)) {
      if (event.kind === 'start') {
        model = event.model
        usage.prompt(index, event.promptTokens)
        const opening = format.opening(index)
        yield opening === null ? [] : [{ ...head, model, choices: [opening], ...noUsage }]
      } else if (event.kind === 'text') {
        const part: Part = { text: event.text, logprobs: query.logprobs === null ? null : event.logprobs, offset }
        for (const token of event.logprobs) offset += token.text.length
        if (part.text !== '' || (part.logprobs?.length ?? 0) > 0) {
          yield [{ ...head, model, choices: [format.delta(index, part)], ...noUsage }]
        }
      } else {
        usage.completion(event.completionTokens)
        yield [{ ...head, model, choices: [format.finish(index, event.finishReason)], ...noUsage, skein: event.report }]
      }
    }
  }
  if (asked.includeUsage) yield [{ ...head, model, choices: [], usage: usage.total() }]
}

/** Runs one query and measures it. Throws when it ends without an end event. */
async function* runQuery(init: AnswerInit, query: QueryRequest): AsyncGenerator<QueryEvent, void> {
  const { metrics, signal } = init
  const startedAt = performance.now()
  const seconds = (): number => (performance.now() - startedAt) / 1000
  let outcome: Outcome = 'cancelled'
  let end: EndEvent | null = null
  let tokens = 0
  try {
    for await (const event of init.queries.answer({ ...query, signal })) {
      if (event.kind === 'start') metrics.tokens.inc({ kind: 'prompt' }, event.promptTokens)
      if (event.kind === 'text') {
        if (tokens === 0 && event.tokens.length > 0) metrics.firstTokenSeconds.observe(seconds())
        tokens += event.tokens.length
      }
      if (event.kind === 'end') {
        end = event
        outcome = 'ok'
      }
      yield event
    }
    if (end === null) throw new Error('the query service ended a query without its end event')
  } catch (error) {
    outcome = signal.aborted ? 'cancelled' : 'failed'
    throw error
  } finally {
    metrics.tokens.inc({ kind: 'completion' }, end?.completionTokens ?? tokens)
    metrics.querySeconds.observe({ outcome }, seconds())
  }
}

function newHead(idPrefix: string, object: string): { id: string; object: string; created: number } {
  return { id: idPrefix + randomUUID().replaceAll('-', ''), object, created: Math.floor(Date.now() / 1000) }
}

/** Token counts of a request: each prompt once, however many choices it has. */
class Usage {
  readonly #choicesPerPrompt: number
  #promptTokens = 0
  #completionTokens = 0

  constructor(choicesPerPrompt: number) {
    this.#choicesPerPrompt = choicesPerPrompt
  }

  prompt(choice: number, tokens: number): void {
    if (choice % this.#choicesPerPrompt === 0) this.#promptTokens += tokens
  }

  completion(tokens: number): void {
    this.#completionTokens += tokens
  }

  total(): object {
    return {
      prompt_tokens: this.#promptTokens,
      completion_tokens: this.#completionTokens,
      total_tokens: this.#promptTokens + this.#completionTokens,
    }
  }
}
