import { Priority } from '../../protocols/expert/index.ts'
import { InvalidRequestError } from '../errors.ts'
import { picksOf } from '../engine/picks.ts'
import type { KvCache, Trunk } from '../engine/engine.ts'
import { logProbabilities, Sampler } from '../engine/sampler.ts'
import { StopStrings } from '../engine/stop-strings.ts'
import type { Manifest } from '../model/manifest.ts'
import type { Tokenizer } from '../model/tokenizer.ts'
import { CancelScope } from './cancel-scope.ts'
import type { Dispatcher } from './dispatcher.ts'
import { expertRuns } from './expert-group.ts'
import type { QueryEvent, QueryRequest, Sampling } from './query.ts'
import type { RoutingCounts } from './routing-counts.ts'
import { Tally } from './tally.ts'

/** A model that this node can drive: its trunk is open. */
export interface DrivenModel {
  /** CID of the manifest, and its digest in hex. */
  readonly id: string
  readonly digest: string
  readonly manifest: Manifest
  readonly trunk: Trunk
  readonly tokenizer: Tokenizer
}

export interface GenerationComponents {
  readonly dispatcher: Dispatcher
  readonly counts: RoutingCounts
}

/** How a query runs once its defaults are filled in. */
export interface GenerationInit {
  readonly request: QueryRequest
  readonly sampling: Sampling
  readonly tally: Tally
  readonly signal: AbortSignal
}

/** Prompt tokens of one pass: enough to amortise the round trips, few enough that decode steps of others get in between. */
const MAX_PREFILL_ROWS = 128
/** Bytes of rows that one host may have to send back for a layer; half the frame limit. */
const MAX_REPLY_BYTES = 8 * 1024 * 1024

/** Runs one query through all passes. Throws as `QueryService.answer` does. */
export async function* generate(components: GenerationComponents, model: DrivenModel, init: GenerationInit): AsyncGenerator<QueryEvent> {
  const { request, sampling, tally, signal } = init
  const { tokenizer, trunk } = model
  const prompt = promptIds(request, model)
  const room = model.manifest.config.maxContext - prompt.length
  const limit = Math.min(request.maxTokens ?? room, room)
  yield { kind: 'start', model: model.manifest.name, promptTokens: prompt.length }

  const sampler = new Sampler(sampling, prompt)
  const stops = new StopStrings(request.stop)
  const decoder = tokenizer.decodeStream(request.input.kind === 'chat' ? [] : prompt)
  const cache = trunk.createCache()
  const scope = new CancelScope()
  const onAbort = (): void => scope.cancel(signal.reason as Error)
  signal.addEventListener('abort', onAbort, { once: true })
  const loop = new LayerLoop(components, model, { tally, scope })
  try {
    signal.throwIfAborted()
    const startedAt = performance.now()
    let logits = await loop.prefill(cache, prompt)
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
      logits = await loop.decode(cache, id)
    }
    tally.decodeMs = performance.now() - startedAt - tally.promptMs
    const rest = stops.push(decoder.flush()) + stops.flush()
    if (rest !== '' || tokens.length > 0) yield { kind: 'text', text: rest, tokens, logprobs }
    yield { kind: 'end', finishReason, completionTokens, report: tally.report() }
  } finally {
    signal.removeEventListener('abort', onAbort)
    cache.close()
  }
}

/** Walks token batches through the layers: trunk here, experts wherever they are. */
class LayerLoop {
  readonly #components: GenerationComponents
  readonly #model: DrivenModel
  readonly #tally: Tally
  readonly #scope: CancelScope
  readonly #prefillRows: number

  constructor(components: GenerationComponents, model: DrivenModel, init: { tally: Tally; scope: CancelScope }) {
    this.#components = components
    this.#model = model
    this.#tally = init.tally
    this.#scope = init.scope
    const { hiddenSize, expertsPerToken } = model.manifest.config
    this.#prefillRows = Math.max(1, Math.min(MAX_PREFILL_ROWS, Math.floor(MAX_REPLY_BYTES / (hiddenSize * 4 * expertsPerToken))))
  }

  /** Logits after the last token of the prompt. */
  async prefill(cache: KvCache, tokens: readonly number[]): Promise<Float32Array> {
    let logits: Float32Array | null = null
    for (let from = 0; from < tokens.length; from += this.#prefillRows) {
      const chunk = tokens.slice(from, from + this.#prefillRows)
      const isLast = from + chunk.length === tokens.length
      logits = await this.#pass(cache, chunk, Priority.prefill, isLast ? [chunk.length - 1] : [])
    }
    return logits!
  }

  decode(cache: KvCache, token: number): Promise<Float32Array> {
    return this.#pass(cache, [token], Priority.decode, [0])
  }

  async #pass(cache: KvCache, tokens: readonly number[], priority: 0 | 1, logitRows: readonly number[]): Promise<Float32Array> {
    const { dispatcher, counts } = this.#components
    const { trunk, id, digest, manifest } = this.#model
    const { layers, experts, hiddenSize } = manifest.config
    const pass = trunk.beginPass([{ cache, tokens }])
    try {
      const context = {
        model: id,
        digest,
        priority,
        exploreSeed: this.#tally.seed + this.#tally.passes * layers,
        tally: this.#tally,
        scope: this.#scope,
      }
      for (let layer = 0; layer < layers; layer++) {
        this.#scope.throwIfCancelled()
        const routing = await pass.attend(layer)
        if (routing === null) continue
        const picks = picksOf(routing, pass.rows, experts)
        counts.add(id, layer, routing.experts, pass.rows)
        await dispatcher.run(context, { layer, rows: pass.rows, width: hiddenSize, x: routing.x, picks, runs: expertRuns(picks) }, pass.moe)
      }
      const logits = logitRows.length > 0 ? await pass.logits(logitRows) : new Float32Array(0)
      pass.commit()
      this.#tally.passes++
      return logits
    } finally {
      pass.close()
    }
  }
}

function promptIds(request: QueryRequest, model: DrivenModel): number[] {
  const { input } = request
  const { tokenizer, manifest } = model
  const { maxContext, vocabSize } = manifest.config
  const param = input.kind === 'chat' ? 'messages' : 'prompt'
  const ids =
    input.kind === 'chat' ? tokenizer.encodeChat(input.messages) : input.kind === 'text' ? tokenizer.encode(input.text) : [...input.ids]
  if (ids.length === 0) throw new InvalidRequestError('the prompt is empty: give at least one token', param)
  const wrong = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize)
  if (wrong !== undefined)
    throw new InvalidRequestError(`token ${wrong} is not in the vocabulary of ${manifest.name} (0-${vocabSize - 1})`, param)
  if (ids.length >= maxContext) {
    throw new InvalidRequestError(
      `the prompt has ${ids.length} tokens; ${manifest.name} takes at most ${maxContext}, prompt and answer together: shorten it`,
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
