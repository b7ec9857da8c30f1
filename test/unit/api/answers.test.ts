import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EXPERTS, MODEL, REPORT, WORDS, end, startApi, textEvent } from './scripted.ts'

const TEXT = WORDS.join('')
const messages = [{ role: 'user' as const, content: 'what is it' }]

test('answers a chat in one object of OpenAI’s shape, with the report', async (t) => {
  const { client, queries } = await startApi(t)
  const answer = await client.chat.completions.create({ model: MODEL, messages })
  assert.match(answer.id, /^chatcmpl-[0-9a-f]{32}$/)
  assert.equal(answer.object, 'chat.completion')
  assert.equal(answer.model, MODEL)
  assert.ok(Math.abs(answer.created - Date.now() / 1000) < 60)
  assert.deepEqual(answer.choices, [
    { index: 0, message: { role: 'assistant', content: TEXT, refusal: null }, logprobs: null, finish_reason: 'stop' },
  ])
  assert.deepEqual(answer.usage, { prompt_tokens: 3, completion_tokens: 7, total_tokens: 10 })
  assert.deepEqual((answer as unknown as { skein: unknown }).skein, REPORT)
  const { signal, ...asked } = queries.asked[0]!
  assert.equal(signal?.aborted, false)
  assert.deepEqual(asked, { model: MODEL, input: { kind: 'chat', messages }, maxTokens: null, sampling: {}, stop: [], logprobs: null })
})

test('streams a chat: role, deltas, finish with the report, usage, [DONE]', async (t) => {
  const { client, url } = await startApi(t)
  const body = { model: MODEL, messages, stream: true as const, stream_options: { include_usage: true } }
  const chunks = []
  for await (const chunk of await client.chat.completions.create(body)) chunks.push(chunk)
  const [role, ...rest] = chunks
  const [finish, usage] = rest.splice(-2)
  assert.deepEqual(role?.choices, [{ index: 0, delta: { role: 'assistant', content: '' }, logprobs: null, finish_reason: null }])
  assert.deepEqual(
    rest.map((chunk) => chunk.choices[0]?.delta),
    WORDS.map((content) => ({ content })),
  )
  assert.deepEqual(finish?.choices, [{ index: 0, delta: {}, logprobs: null, finish_reason: 'stop' }])
  assert.deepEqual((finish as unknown as { skein: unknown }).skein, REPORT)
  assert.deepEqual([finish?.usage, usage?.usage], [null, { prompt_tokens: 3, completion_tokens: 7, total_tokens: 10 }])
  assert.deepEqual(usage?.choices, [])
  assert.equal(new Set(chunks.map((chunk) => `${chunk.id} ${chunk.created} ${chunk.model} ${chunk.object}`)).size, 1)
  assert.equal(role?.object, 'chat.completion.chunk')

  const raw = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(body),
  })
  assert.equal(raw.headers.get('content-type'), 'text/event-stream; charset=utf-8')
  const events = (await raw.text()).split('\n\n')
  assert.deepEqual(events.slice(-2), ['data: [DONE]', ''])
  assert.ok(events.slice(0, -2).every((event) => event.startsWith('data: {')))
})

test('answers and streams a completion', async (t) => {
  const { client, queries } = await startApi(t)
  const whole = await client.completions.create({ model: MODEL, prompt: 'once upon', max_tokens: 3 })
  assert.match(whole.id, /^cmpl-/)
  assert.equal(whole.object, 'text_completion')
  assert.deepEqual(whole.choices, [{ index: 0, text: 'The mesh is', logprobs: null, finish_reason: 'length' }])
  assert.deepEqual(whole.usage, { prompt_tokens: 2, completion_tokens: 3, total_tokens: 5 })

  const chunks = []
  for await (const chunk of await client.completions.create({ model: MODEL, prompt: 'once', stream: true })) chunks.push(chunk)
  assert.equal(chunks.map((chunk) => chunk.choices[0]?.text).join(''), TEXT)
  assert.ok(chunks.every((chunk) => chunk.object === 'text_completion' && !('usage' in chunk)))
  const last = chunks.at(-1)
  assert.equal(last?.choices[0]?.finish_reason, 'stop')
  assert.deepEqual((last as unknown as { skein: unknown }).skein, REPORT)
  assert.equal(queries.asked[1]?.maxTokens, 16, 'OpenAI’s default for completions')
})

test('takes prompts as text, texts, tokens and token lists', async (t) => {
  const { client, queries } = await startApi(t)
  const ask = async (prompt: string | string[] | number[] | number[][], n = 1) => {
    queries.asked.length = 0
    const answer = await client.completions.create({ model: MODEL, prompt, n, seed: 5, max_tokens: 1 })
    assert.deepEqual(
      answer.choices.map((choice) => choice.index),
      [...answer.choices.keys()],
    )
    return { answer, asked: queries.asked.map(({ input, sampling }) => ({ input, seed: sampling.seed })) }
  }
  assert.deepEqual((await ask([1, 2, 3])).asked, [{ input: { kind: 'tokens', ids: [1, 2, 3] }, seed: 5 }])
  assert.deepEqual((await ask([[1], [2, 3]])).asked, [
    { input: { kind: 'tokens', ids: [1] }, seed: 5 },
    { input: { kind: 'tokens', ids: [2, 3] }, seed: 5 },
  ])
  const { answer, asked } = await ask(['a b', 'c'], 2)
  assert.deepEqual(asked, [
    { input: { kind: 'text', text: 'a b' }, seed: 5 },
    { input: { kind: 'text', text: 'a b' }, seed: 6 },
    { input: { kind: 'text', text: 'c' }, seed: 5 },
    { input: { kind: 'text', text: 'c' }, seed: 6 },
  ])
  assert.deepEqual(answer.usage, { prompt_tokens: 3, completion_tokens: 4, total_tokens: 7 }, 'each prompt counts once')
})

test('makes n choices with derived seeds and one merged report', async (t) => {
  const { client, queries } = await startApi(t)
  const answer = await client.chat.completions.create({ model: MODEL, messages, n: 3 })
  assert.deepEqual(
    answer.choices.map((choice) => [choice.index, choice.message.content]),
    [0, 1, 2].map((index) => [index, TEXT]),
  )
  const [first, ...others] = queries.asked.map((request) => request.sampling.seed)
  assert.ok(Number.isSafeInteger(first), 'drawn when not given')
  assert.deepEqual(others, [first! + 1, first! + 2])
  const { skein } = answer as unknown as { skein: typeof REPORT }
  assert.equal(skein.seed, first)
  assert.equal(skein.passes, 3 * REPORT.passes)
  assert.deepEqual(skein.calls, { local: 3, remote: 45, retried: 0 })
  assert.deepEqual(skein.hosts, [
    { peer: 'peer-a', local: false, calls: 45, rows: 60, layers: [0, 2] },
    { peer: 'peer-b', local: true, calls: 3, rows: 3, layers: [1] },
  ])

  const streamed = ['', '']
  for await (const chunk of await client.chat.completions.create({ model: MODEL, messages, n: 2, stream: true })) {
    for (const choice of chunk.choices) streamed[choice.index] += choice.delta.content ?? ''
  }
  assert.deepEqual(streamed, [TEXT, TEXT])
})

test('hands sampling, stops and Skein’s own fields to the driver', async (t) => {
  const { post, client, queries } = await startApi(t)
  const { status } = await post('/v1/chat/completions', {
    model: MODEL,
    messages: [
      { role: 'developer', content: 'be brief' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'a' },
          { type: 'text', text: 'b' },
        ],
      },
    ],
    max_completion_tokens: 9,
    max_tokens: 99,
    temperature: 0.5,
    top_p: 0.9,
    top_k: 40,
    min_p: 0.05,
    repetition_penalty: 1.1,
    frequency_penalty: 0.2,
    presence_penalty: -0.3,
    seed: -12,
    stop: 'END',
    skein: { wire: 'f32', combine: 'driver' },
    user: 'someone',
    store: true,
    tools: [],
    tool_choice: 'none',
    logit_bias: {},
    response_format: { type: 'text' },
    n: null,
  })
  assert.equal(status, 200)
  const { signal: _, ...asked } = queries.asked[0]!
  assert.deepEqual(asked, {
    model: MODEL,
    input: {
      kind: 'chat',
      messages: [
        { role: 'system', content: 'be brief' },
        { role: 'user', content: 'ab' },
      ],
    },
    maxTokens: 9,
    stop: ['END'],
    logprobs: null,
    wire: 'f32',
    combine: 'driver',
    sampling: {
      temperature: 0.5,
      topP: 0.9,
      topK: 40,
      minP: 0.05,
      repetitionPenalty: 1.1,
      frequencyPenalty: 0.2,
      presencePenalty: -0.3,
      seed: -12,
    },
  })
  const stopped = await client.chat.completions.create({ model: MODEL, messages, stop: ['zzz', ' is'] })
  assert.deepEqual([stopped.choices[0]?.message.content, stopped.choices[0]?.finish_reason], ['The mesh', 'stop'])
})

test('reports log-probabilities of a chat, whole and streamed', async (t) => {
  const { client, queries } = await startApi(t)
  const ask = { model: MODEL, messages, logprobs: true, top_logprobs: 2 }
  const whole = (await client.chat.completions.create(ask)).choices[0]?.logprobs
  assert.equal(whole?.content?.length, WORDS.length)
  assert.deepEqual(whole?.content?.[5], {
    token: 'é',
    logprob: -0.25,
    bytes: [0xc3, 0xa9],
    top_logprobs: [
      { token: 'é', logprob: -0.25, bytes: [0xc3, 0xa9] },
      { token: 'é~1', logprob: -1.25, bytes: [0xc3, 0xa9, 0x7e, 0x31] },
    ],
  })
  const streamed = []
  for await (const chunk of await client.chat.completions.create({ ...ask, stream: true })) {
    streamed.push(...(chunk.choices[0]?.logprobs?.content ?? []))
  }
  assert.deepEqual(streamed, whole?.content)
  await client.chat.completions.create({ model: MODEL, messages, logprobs: true })
  assert.equal(queries.asked.at(-1)?.logprobs, 0)
})

test('reports log-probabilities of a completion with offsets', async (t) => {
  const { client } = await startApi(t)
  const ask = { model: MODEL, prompt: 'x', max_tokens: 3, logprobs: 2 }
  const expected = {
    tokens: ['The', ' mesh', ' is'],
    token_logprobs: [-0.25, -0.25, -0.25],
    top_logprobs: [
      { The: -0.25, 'The~1': -1.25 },
      { ' mesh': -0.25, ' mesh~1': -1.25 },
      { ' is': -0.25, ' is~1': -1.25 },
    ],
    text_offset: [0, 3, 8],
  }
  assert.deepEqual((await client.completions.create(ask)).choices[0]?.logprobs, expected)
  const offsets = []
  for await (const chunk of await client.completions.create({ ...ask, stream: true })) {
    offsets.push(...(chunk.choices[0]?.logprobs?.text_offset ?? []))
  }
  assert.deepEqual(offsets, expected.text_offset)
})

test('holds back empty pieces, but not their log-probabilities; bytes of half a character are unknown', async (t) => {
  const { client, queries } = await startApi(t)
  queries.script = async function* (request) {
    yield { kind: 'start', model: MODEL, promptTokens: 1 }
    yield { ...textEvent(1, '\uFFFD', request.logprobs), text: '' }
    yield { ...textEvent(2, '\uFFFD', request.logprobs), text: 'é' }
    yield end('stop', 2, request)
  }
  const read = async (logprobs: boolean) => {
    const deltas = []
    for await (const chunk of await client.chat.completions.create({ model: MODEL, messages, logprobs, stream: true })) {
      deltas.push([chunk.choices[0]?.delta.content, chunk.choices[0]?.logprobs?.content?.[0]?.bytes])
    }
    return deltas.slice(1, -1)
  }
  assert.deepEqual(await read(false), [['é', undefined]])
  assert.deepEqual(await read(true), [
    ['', null],
    ['é', null],
  ])
})

test('lists and names models', async (t) => {
  const { client, post } = await startApi(t)
  const [model] = (await client.models.list()).data
  const expected = {
    id: MODEL,
    object: 'model',
    created: 1_790_000_000,
    owned_by: 'skein',
    skein: {
      coverage: { experts: 64, covered: 64, minReplicas: 2, complete: true, missing: [], missingBytes: 0 },
      architecture: 'Qwen3MoeForCausalLM',
      quant: 'q8',
      maxContext: 1024,
      cid: 'bafkreitest',
    },
  }
  assert.deepEqual(model, expected)
  assert.deepEqual({ ...(await client.models.retrieve(MODEL)) }, expected)
  assert.deepEqual({ ...(await client.models.retrieve('bafkreitest')) }, expected)
  await assert.rejects(client.models.retrieve('nope'), { status: 404, code: 'model_not_found' })
  assert.equal((await post('/v1/models', {})).status, 405)
})

test('serves health, swarm, metrics and the page', async (t) => {
  const { url, client, metrics } = await startApi(t)
  await client.chat.completions.create({ model: MODEL, messages })
  const get = async (path: string) => await fetch(url + path)
  assert.deepEqual(await (await get('/health')).json(), { status: 'ok', ready: true })
  const swarm = (await (await get('/api/swarm')).json()) as { peer: string; peers: unknown[] }
  assert.deepEqual([swarm.peer, swarm.peers.length], ['peer-b', 1])
  assert.deepEqual(await (await get('/api/experts')).json(), { models: [EXPERTS] })
  const exposed = await get('/metrics')
  assert.match(exposed.headers.get('content-type') ?? '', /^text\/plain/)
  const text = await exposed.text()
  assert.match(text, /skein_http_requests_total\{route="\/v1\/chat\/completions",status="200"\} 1/)
  assert.match(text, /skein_query_tokens_total\{kind="prompt"\} 3/)
  assert.match(text, /skein_query_tokens_total\{kind="completion"\} 7/)
  assert.match(text, /skein_query_seconds_count\{outcome="ok"\} 1/)
  assert.match(text, /skein_query_first_token_seconds_count 1/)
  await get('/nowhere/at/all')
  assert.match(await metrics(), /skein_http_requests_total\{route="unknown",status="404"\} 1/)

  const page = await get('/')
  assert.match(page.headers.get('content-type') ?? '', /^text\/html/)
  assert.match(page.headers.get('content-security-policy') ?? '', /^default-src 'none'; script-src 'sha256-[^;]+; style-src 'sha256-/)
  const html = await page.text()
  assert.doesNotMatch(html, /(?:src|href)="(?:https?:)?\/\//, 'loads nothing from elsewhere')
  assert.equal((await fetch(url, { method: 'HEAD' })).status, 200)
})
