import assert from 'node:assert/strict'
import type { TestContext } from 'node:test'
import OpenAI from 'openai'
import { Registry } from 'prom-client'
import { createApi, type ApiInit } from '../../../node/api/api.ts'
import type { NetworkDoor, ApiServices, ExpertMap, HoldingsDoor, ModelInfo, SwarmStatus } from '../../../node/api/services.ts'
import type { QueryEvent, QueryReport, QueryRequest, QueryService, TokenLogprob } from '../../../node/driver/query.ts'
import { InvalidRequestError, ModelMissingError } from '../../../node/errors.ts'
import type { HoldingEvent, HoldingsRequest } from '../../../node/host/holdings-service.ts'

export const MODEL = 'ember-test'
export const WORDS = ['The', ' mesh', ' is', ' awake', ' — ', 'é', '!']

/** A query service without a model: it says {@link WORDS}, or does what a test's `script` does. */
export class ScriptedQueries implements QueryService {
  /** Every request asked so far. */
  readonly asked: QueryRequest[] = []
  /** Queries begun and not yet ended, however they end. */
  open = 0
  script: (request: QueryRequest) => AsyncGenerator<QueryEvent> = sayWords

  async *answer(request: QueryRequest): AsyncGenerator<QueryEvent> {
    this.asked.push(request)
    this.open++
    try {
      yield* this.script(request)
    } finally {
      this.open--
    }
  }
}

/** Speaks like the real driver: model and length checks, stop strings, token limit, seed, log-probabilities. */
export async function* sayWords(request: QueryRequest): AsyncGenerator<QueryEvent> {
  if (request.model !== MODEL) throw new ModelMissingError(`the model '${request.model}' is not in this node's store`)
  const prompt = promptOf(request)
  if (prompt.length > 1000) throw new InvalidRequestError('the prompt has too many tokens', 'messages', 'context_length_exceeded')
  yield { kind: 'start', model: MODEL, promptTokens: prompt.split(' ').length }
  let text = ''
  let completionTokens = 0
  for (const [id, word] of WORDS.entries()) {
    request.signal?.throwIfAborted()
    if (completionTokens === (request.maxTokens ?? Infinity)) break
    completionTokens++
    text += word
    if (request.stop.some((stop) => text.includes(stop))) {
      yield end('stop', completionTokens, request)
      return
    }
    yield textEvent(id, word, request.logprobs)
  }
  yield end(completionTokens === WORDS.length ? 'stop' : 'length', completionTokens, request)
}

function promptOf({ input }: QueryRequest): string {
  if (input.kind === 'chat') return input.messages.map((message) => message.content).join(' ')
  return input.kind === 'text' ? input.text : input.ids.join(' ')
}

export function textEvent(id: number, text: string, top: number | null = null): QueryEvent {
  const at = (rank: number): TokenLogprob => ({ id: id + rank, text: rank === 0 ? text : `${text}~${rank}`, logprob: -0.25 - rank })
  const logprobs = top === null ? [] : [{ ...at(0), top: Array.from({ length: top }, (_, rank) => at(rank)) }]
  return { kind: 'text', text, tokens: [id], logprobs }
}

export function end(finishReason: 'stop' | 'length', completionTokens: number, request: QueryRequest): QueryEvent {
  return { kind: 'end', finishReason, completionTokens, report: { ...REPORT, seed: request.sampling.seed ?? REPORT.seed } }
}

export const REPORT: QueryReport = {
  exact: true,
  wire: 'f16',
  combine: 'host',
  seed: 7,
  passes: 8,
  cachedTokens: 0,
  calls: { local: 1, remote: 15, retried: 0 },
  bytes: { sent: 1000, received: 900 },
  meshUs: null,
  timeMs: { prompt: 3, decode: 20 },
  expertCache: { hits: 1, picks: 40 },
  hosts: [
    { peer: 'peer-a', local: false, calls: 15, rows: 20, layers: [0, 2] },
    { peer: 'peer-b', local: true, calls: 1, rows: 1, layers: [1] },
  ],
}

const MODEL_INFO: ModelInfo = {
  name: MODEL,
  id: 'bafkreitest',
  architecture: 'Qwen3MoeForCausalLM',
  quant: 'q8',
  createdAt: 1_790_000_000,
  maxContext: 1024,
  coverage: { experts: 64, covered: 64, minReplicas: 2, complete: true, missing: [], missingBytes: 0 },
  expertBytes: 1_000_000,
}

/** A node that knows one peer. */
export const SCRIPTED_NETWORK: NetworkDoor = {
  peers: () => [{ peer: 'peer-a', name: 'ann', isMember: true, links: [], bytesPerSecond: null, reason: null }],
  report: async () => ({
    peer: 'peer-b',
    swarm: { name: 'test', isPrivate: true, isAdmitted: true },
    addresses: [],
    leftOut: [],
    missing: [],
    relay: SWARM.relay,
    reflectors: 0,
    nat: null,
    upnp: null,
    isUpnpOn: true,
    dht: { isServer: true, peers: 1, known: 0 },
    clockAheadMs: null,
    unreachable: [],
    refused: [],
    peers: [],
  }),
  invite: async ({ uses }) => `skein1-${uses}`,
}

const SWARM: SwarmStatus = {
  version: '0.1.0',
  swarm: 'test',
  peer: 'peer-b',
  addresses: ['/ip4/127.0.0.1/tcp/1'],
  uptimeSeconds: 5,
  ready: true,
  models: [MODEL_INFO],
  refused: [],
  relay: { reach: 'private', using: [], serving: { isOpen: false, reservations: 0, circuits: 0, bytes: 0 } },
  peers: [
    {
      peer: 'peer-a',
      name: '<b>ann</b>',
      connected: true,
      address: '/ip4/127.0.0.1/tcp/2',
      rttMs: 0.4,
      experts: 64,
      callsSent: 15,
      callsFailed: 0,
      ledgerAgeSeconds: 2,
      backoffMs: 0,
    },
  ],
  holdings: [{ model: MODEL, layers: [{ layer: 0, experts: '0-3,8' }] }],
  routing: [{ model: MODEL, tokens: 12 }],
}

export const EXPERTS: ExpertMap = {
  model: MODEL,
  id: MODEL_INFO.id,
  layers: 1,
  experts: 2,
  authors: 1,
  coverage: { experts: 2, covered: 1, minReplicas: 0, complete: false, missing: [{ layer: 0, experts: '1' }], missingBytes: 12_000_000 },
  rates: [[1.5, 0]],
  tokens: [[120, 0]],
  hosts: [[2, 0]],
  pairs: [{ layer: 0, a: 0, b: 1, rate: 0.25 }],
}

export interface TestApi {
  readonly url: string
  readonly queries: ScriptedQueries
  readonly client: OpenAI
  /** What was logged, as `event error-message`. */
  readonly logged: string[]
  readonly stop: () => Promise<void>
  readonly metrics: () => Promise<string>
  /** POSTs JSON (or a string as it is) and reads the answer's JSON. */
  readonly post: (path: string, body: unknown, headers?: Record<string, string>) => Promise<{ status: number; headers: Headers; json: any }>
}

/** Holdings that nobody may touch. */
export const NO_HOLDINGS: HoldingsDoor = {
  hold: () => assert.fail('not asked'),
  release: () => assert.fail('not asked'),
}

/** Holdings of {@link MODEL} alone: what is asked comes back as the model's size in shards. */
const SCRIPTED_HOLDINGS: HoldingsDoor = {
  hold: (request) => sayHoldings(request, 'serving'),
  release: (request) => sayHoldings(request, 'released'),
}

async function* sayHoldings({ model, what }: HoldingsRequest, state: 'serving' | 'released'): AsyncGenerator<HoldingEvent> {
  if (model !== MODEL) throw new ModelMissingError(`nobody in the swarm announces a model ${model}`)
  yield { kind: 'model', name: model, id: 'cid', shards: 1, bytes: what.length }
  yield { kind: 'shard', layer: 0, first: 0, last: 3, state, reason: '' }
  yield { kind: 'end', done: 1, failed: 0 }
}

/** An API over scripted services on a free port; stops with the test. */
export async function startApi(t: TestContext, init: Partial<ApiInit> = {}): Promise<TestApi> {
  const queries = new ScriptedQueries()
  const metrics = new Registry()
  const services: ApiServices = {
    queries,
    models: () => [MODEL_INFO],
    swarm: () => SWARM,
    experts: () => [EXPERTS],
    metrics,
    holdings: SCRIPTED_HOLDINGS,
    network: SCRIPTED_NETWORK,
  }
  const logged: string[] = []
  const log = (event: string, fields: Readonly<Record<string, unknown>>): void => {
    logged.push(`${event} ${String(fields['error'])}`)
  }
  const api = createApi(services, { host: '127.0.0.1', port: 0, log, ...init })
  t.after(() => api.stop())
  const { url } = await api.start()
  return {
    url,
    queries,
    logged,
    client: new OpenAI({ baseURL: `${url}/v1`, apiKey: init.apiKey ?? 'none', maxRetries: 0, timeout: 10_000 }),
    stop: () => api.stop(),
    metrics: () => metrics.metrics(),
    post: async (path, body, headers = {}) => {
      const response = await fetch(url + path, {
        method: 'POST',
        headers: { 'content-type': 'application/json', ...headers },
        body: typeof body === 'string' ? body : JSON.stringify(body),
        signal: AbortSignal.timeout(10_000),
      })
      return { status: response.status, headers: response.headers, json: await response.json() }
    },
  }
}

/** Waits for a condition; throws when it is not met in time. */
export async function until(what: string, isMet: () => boolean | Promise<boolean>, timeoutMs = 5_000): Promise<void> {
  const deadline = performance.now() + timeoutMs
  while (!(await isMet())) {
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
}
