import { InvalidRequestError } from '../errors.ts'
import type { Trunk } from '../engine/engine.ts'
import { logProbabilities, Sampler } from '../engine/sampler.ts'
import { StopStrings } from '../engine/stop-strings.ts'
import type { Manifest } from '../model/manifest.ts'
import type { Tokenizer } from '../model/tokenizer.ts'
import type { Batcher } from './batcher.ts'
import { CancelScope } from './cancel-scope.ts'
import type { QueryEvent, QueryRequest, Sampling } from './query.ts'
import type { Tally } from './tally.ts'

/** A model that this node can drive: its trunk is open. */
export interface DrivenModel {
  /** CID of the manifest, and its digest in hex. */
  readonly id: string
  readonly digest: string
  readonly manifest: Manifest
  readonly trunk: Trunk
  readonly tokenizer: Tokenizer
}

/** How a query runs once its defaults are filled in. */
export interface GenerationInit {
  readonly request: QueryRequest
  readonly sampling: Sampling
  readonly tally: Tally
  readonly signal: AbortSignal
}

/** Tokens of an answer without a limit for which room is kept together in memory. */
const EXPECTED_ANSWER = 256

/** Runs one query through all passes. Throws as `QueryService.answer` does. */
export async function* generate(batcher: Batcher, model: DrivenModel, init: GenerationInit): AsyncGenerator<QueryEvent> {
  const { request, sampling, tally, signal } = init
  const { tokenizer } = model
  const prompt = promptIds(request, model)
  const room = contextOf(model) - prompt.length
  const limit = Math.min(request.maxTokens ?? room, room)
  yield { kind: 'start', model: model.manifest.name, promptTokens: prompt.length }

  const sampler = new Sampler(sampling, prompt)
  const stops = new StopStrings(request.stop)
  const decoder = tokenizer.decodeStream(request.input.kind === 'chat' ? [] : prompt)
  const scope = new CancelScope()
  const onAbort = (): void => scope.cancel(signal.reason as Error)
  signal.addEventListener('abort', onAbort, { once: true })
  const sequence = batcher.open({ tally, scope, expectedTokens: prompt.length + Math.min(limit, EXPECTED_ANSWER) })
  try {
    signal.throwIfAborted()
    const startedAt = performance.now()
    let logits = await batcher.advance(sequence, prompt)
    tally.promptMs = performance.now() - startedAt
    let finishReason: 'stop' | 'length' = 'length'
    let completionTokens = 0
    let tokens: number[] = []
    let logprobs: Extract<QueryEvent, { kind: 'text' }>['logprobs'][number][] = []
    while (completionTokens < limit) {
      const id = sampler.next(logits)
      completionTokens++
      if (tokenizer.isEndOfSequence(id)) {
        finishReason = 'stop'
        break
      }
      tokens.push(id)
      if (request.logprobs !== null) logprobs.push(describe(tokenizer, logits, id, request.logprobs))
      const text = stops.push(decoder.push(id))
      if (text !== '' || request.logprobs !== null) {
        yield { kind: 'text', text, tokens, logprobs }
        tokens = []
        logprobs = []
      }
      if (stops.stopped) {
        finishReason = 'stop'
        break
      }
      if (completionTokens === limit) break
      logits = await batcher.advance(sequence, [id])
    }
    tally.decodeMs = performance.now() - startedAt - tally.promptMs
    const rest = stops.push(decoder.flush()) + stops.flush()
    if (rest !== '' || tokens.length > 0) yield { kind: 'text', text: rest, tokens, logprobs }
    yield { kind: 'end', finishReason, completionTokens, report: tally.report() }
  } finally {
    signal.removeEventListener('abort', onAbort)
    batcher.close(sequence)
  }
}

/** Tokens of prompt and answer together: what the model was made for, as far as there is memory. */
function contextOf({ manifest, trunk }: DrivenModel): number {
  return Math.min(manifest.config.maxContext, trunk.kv.mostTokens)
}

function promptIds(request: QueryRequest, model: DrivenModel): number[] {
  const { input } = request
  const { tokenizer, manifest } = model
  const { vocabSize } = manifest.config
  const param = input.kind === 'chat' ? 'messages' : 'prompt'
  const ids =
    input.kind === 'chat' ? tokenizer.encodeChat(input.messages) : input.kind === 'text' ? tokenizer.encode(input.text) : [...input.ids]
  if (ids.length === 0) throw new InvalidRequestError('the prompt is empty: give at least one token', param)
  const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize)
  if (wrong !== undefined)
    throw new InvalidRequestError(`token ${wrong} is not in the vocabulary of ${manifest.name} (0-${vocabSize - 1})`, param)
  const context = contextOf(model)
  if (ids.length >= context) {
    const remedy = context < manifest.config.maxContext ? 'shorten it, raise --kv-memory or use --kv q8' : 'shorten it'
    const who = context < manifest.config.maxContext ? "this node's key-value memory" : manifest.name
    throw new InvalidRequestError(
      `the prompt has ${ids.length} tokens; ${who} takes at most ${context}, prompt and answer together: ${remedy}`,
      param,
      'context_length_exceeded',
    )
  }
  return ids
}

function describe(
  tokenizer: Tokenizer,
  logits: Float32Array,
  id: number,
  top: number,
): Extract<QueryEvent, { kind: 'text' }>['logprobs'][number] {
  const named = (entry: { id: number; logprob: number }): { id: number; text: string; logprob: number } => ({
    ...entry,
    text: tokenizer.tokenText(entry.id),
  })
  const { chosen, top: others } = logProbabilities(logits, id, top)
  return { ...named(chosen), top: others.map(named) }
}
