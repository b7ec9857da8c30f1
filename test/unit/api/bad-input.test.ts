import assert from 'node:assert/strict'
import { connect } from 'node:net'
import { test } from 'node:test'
import { once } from 'node:events'
import { DeadlineError } from '../../../protocols/wire/errors.ts'
import { BusyError, NoRouteError } from '../../../node/errors.ts'
import { MODEL, startApi, textEvent, until, type TestApi } from './scripted.ts'

const CHAT = '/v1/chat/completions'
const TEXT = '/v1/completions'
const messages = [{ role: 'user' as const, content: 'hello' }]
const chat = { model: MODEL, messages }
const text = { model: MODEL, prompt: 'hello' }

async function assertServing({ client }: TestApi): Promise<void> {
  const answer = await client.chat.completions.create({ ...chat, max_tokens: 1 })
  assert.equal(answer.choices[0]?.message.content, 'The')
}

/** Path, body, expected param and code of each bad request. */
const BAD_FIELDS: readonly (readonly [string, unknown, string | null, string])[] = [
  [CHAT, [], null, 'invalid_type'],
  [CHAT, 'null', null, 'invalid_type'],
  [CHAT, { messages }, 'model', 'missing_required_parameter'],
  [CHAT, { model: MODEL }, 'messages', 'missing_required_parameter'],
  [CHAT, { ...chat, model: 7 }, 'model', 'invalid_type'],
  [CHAT, { ...chat, model: 'm'.repeat(300) }, 'model', 'invalid_value'],
  [CHAT, { ...chat, messages: [] }, 'messages', 'invalid_value'],
  [CHAT, { ...chat, messages: 'hi' }, 'messages', 'invalid_type'],
  [CHAT, { ...chat, messages: [{ role: 'wizard', content: 'x' }] }, 'messages[0].role', 'invalid_value'],
  [CHAT, { ...chat, messages: [{ role: 'user' }] }, 'messages[0].content', 'missing_required_parameter'],
  [CHAT, { ...chat, messages: [{ role: 'user', content: 5 }] }, 'messages[0].content', 'invalid_type'],
  [
    CHAT,
    {
      ...chat,
      messages: [
        {
          role: 'user',
          content: [
            { type: 'text', text: 'x' },
            { type: 'image_url', image_url: { url: 'x' } },
          ],
        },
      ],
    },
    'messages[0].content[1].type',
    'invalid_value',
  ],
  [CHAT, { ...chat, messages: [{ role: 'assistant', content: 'x', tool_calls: [{}] }] }, 'messages[0].tool_calls', 'invalid_value'],
  [CHAT, { ...chat, temperature: 2.1 }, 'temperature', 'invalid_value'],
  [CHAT, { ...chat, temperature: -0.1 }, 'temperature', 'invalid_value'],
  [CHAT, { ...chat, temperature: 'hot' }, 'temperature', 'invalid_type'],
  [CHAT, `{"model":"${MODEL}","messages":[{"role":"user","content":"x"}],"temperature":1e999}`, 'temperature', 'invalid_type'],
  [CHAT, { ...chat, top_p: 1.1 }, 'top_p', 'invalid_value'],
  [CHAT, { ...chat, top_k: 1.5 }, 'top_k', 'invalid_type'],
  [CHAT, { ...chat, min_p: 2 }, 'min_p', 'invalid_value'],
  [CHAT, { ...chat, repetition_penalty: 0 }, 'repetition_penalty', 'invalid_value'],
  [CHAT, { ...chat, frequency_penalty: 3 }, 'frequency_penalty', 'invalid_value'],
  [CHAT, { ...chat, presence_penalty: -3 }, 'presence_penalty', 'invalid_value'],
  [CHAT, { ...chat, seed: 0.5 }, 'seed', 'invalid_type'],
  [CHAT, { ...chat, max_tokens: 0 }, 'max_tokens', 'invalid_value'],
  [CHAT, { ...chat, max_completion_tokens: -1 }, 'max_completion_tokens', 'invalid_value'],
  [CHAT, { ...chat, n: 9 }, 'n', 'invalid_value'],
  [CHAT, { ...chat, n: 0 }, 'n', 'invalid_value'],
  [CHAT, { ...chat, stop: '' }, 'stop', 'invalid_value'],
  [CHAT, { ...chat, stop: ['a', ''] }, 'stop[1]', 'invalid_value'],
  [CHAT, { ...chat, stop: Array.from({ length: 17 }, () => 'x') }, 'stop', 'invalid_value'],
  [CHAT, { ...chat, stop: 4 }, 'stop', 'invalid_type'],
  [CHAT, { ...chat, stream: 'yes' }, 'stream', 'invalid_type'],
  [CHAT, { ...chat, logprobs: 3 }, 'logprobs', 'invalid_type'],
  [CHAT, { ...chat, top_logprobs: 3 }, 'top_logprobs', 'invalid_value'],
  [CHAT, { ...chat, logprobs: true, top_logprobs: 21 }, 'top_logprobs', 'invalid_value'],
  [CHAT, { ...chat, skein: { wire: 'i4' } }, 'skein.wire', 'invalid_value'],
  [CHAT, { ...chat, skein: { quick: true } }, 'skein', 'invalid_value'],
  [CHAT, { ...chat, tools: [{ type: 'function' }] }, 'tools', 'unsupported_parameter'],
  [CHAT, { ...chat, tool_choice: 'auto' }, 'tool_choice', 'unsupported_parameter'],
  [CHAT, { ...chat, functions: [{}] }, 'functions', 'unsupported_parameter'],
  [CHAT, { ...chat, response_format: { type: 'json_object' } }, 'response_format', 'unsupported_parameter'],
  [CHAT, { ...chat, logit_bias: { 5: 1 } }, 'logit_bias', 'unsupported_parameter'],
  [CHAT, { ...chat, modalities: ['audio'] }, 'modalities', 'unsupported_parameter'],
  [CHAT, { ...chat, audio: { voice: 'x' } }, 'audio', 'unsupported_parameter'],
  [TEXT, { model: MODEL }, 'prompt', 'missing_required_parameter'],
  [TEXT, { ...text, prompt: [] }, 'prompt', 'invalid_value'],
  [TEXT, { ...text, prompt: ['a', 1] }, 'prompt[1]', 'invalid_type'],
  [TEXT, { ...text, prompt: [-1] }, 'prompt[0]', 'invalid_value'],
  [TEXT, { ...text, prompt: { a: 1 } }, 'prompt', 'invalid_type'],
  [TEXT, { ...text, prompt: Array.from({ length: 17 }, () => 'x'), n: 2 }, 'n', 'invalid_value'],
  [TEXT, { ...text, logprobs: true }, 'logprobs', 'invalid_type'],
  [TEXT, { ...text, logprobs: 21 }, 'logprobs', 'invalid_value'],
  [TEXT, { ...text, echo: true }, 'echo', 'unsupported_parameter'],
  [TEXT, { ...text, suffix: 'end' }, 'suffix', 'unsupported_parameter'],
  [TEXT, { ...text, best_of: 3 }, 'best_of', 'unsupported_parameter'],
]

test('refuses bad fields by name with 400 and asks the driver nothing', async (t) => {
  const api = await startApi(t)
  for (const [path, body, param, code] of BAD_FIELDS) {
    const { status, json } = await api.post(path, body)
    const told = JSON.stringify(body).slice(0, 120)
    assert.equal(status, 400, told)
    assert.deepEqual({ ...json.error, message: '' }, { message: '', type: 'invalid_request_error', param, code }, told)
    assert.match(json.error.message, /^[A-Z'].+\.$/, told)
    if (param !== null) assert.ok(json.error.message.includes(`'${param}'`), `${json.error.message} names ${param}`)
  }
  assert.equal(api.queries.asked.length, 0)
  await assertServing(api)
})

test('refuses bodies that are no JSON, of another type or too large', async (t) => {
  const api = await startApi(t, { maxBodyBytes: 1000 })
  const cases: [string | Buffer | ReadableStream, Record<string, string>, number, string][] = [
    ['{"model":', {}, 400, 'invalid_json'],
    ['', {}, 400, 'invalid_json'],
    [Buffer.from([0x22, 0xff, 0x22]), {}, 400, 'invalid_json'],
    [JSON.stringify(chat), { 'content-type': 'text/plain' }, 415, 'unsupported_media_type'],
    [JSON.stringify(chat), { 'content-encoding': 'gzip' }, 415, 'unsupported_media_type'],
    [JSON.stringify({ ...chat, pad: 'x'.repeat(100_000) }), {}, 413, 'body_too_large'],
    [new Blob(['"', 'x'.repeat(100_000), '"']).stream(), {}, 413, 'body_too_large'],
  ]
  for (const [body, headers, status, code] of cases) {
    const response = await fetch(api.url + CHAT, {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers },
      body: body as string,
      ...(body instanceof ReadableStream && { duplex: 'half' }),
    })
    assert.deepEqual([response.status, ((await response.json()) as any).error.code], [status, code])
    await assertServing(api)
  }
})

test('a deeply nested body does no harm', async (t) => {
  const api = await startApi(t)
  const { status } = await api.post(CHAT, `{"model":"${MODEL}","messages":${'['.repeat(200_000)}${']'.repeat(200_000)}}`)
  assert.equal(status, 400)
  await assertServing(api)
})

test('megabytes of wrong items cost one complaint', async (t) => {
  const api = await startApi(t)
  const items = Array.from({ length: 1_000_000 }, () => ({}))
  const startedAt = performance.now()
  for (const [path, field] of [
    [CHAT, 'messages'],
    [CHAT, 'stop'],
    [TEXT, 'prompt'],
  ] as const) {
    const { status, json } = await api.post(path, { ...(path === CHAT ? chat : text), [field]: items })
    assert.deepEqual([status, json.error.param], [400, field])
    assert.ok(json.error.message.length < 200)
  }
  assert.ok(performance.now() - startedAt < 15_000)
  await assertServing(api)
})

test('a client that leaves while sending its body is let go', async (t) => {
  const api = await startApi(t)
  const socket = connect(Number(new URL(api.url).port), '127.0.0.1')
  socket.on('error', () => undefined)
  socket.write(`POST ${CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"model":`)
  await until('the request was sent', () => socket.bytesWritten > 0)
  await assertServing(api)
  socket.destroy()
  await until('the request was given up', async () => (await api.metrics()).includes('status="499"} 1'))
  assert.deepEqual(api.logged, [])
  await assertServing(api)
})

test('knows neither other routes nor other methods', async (t) => {
  const api = await startApi(t)
  const response = await fetch(api.url + CHAT)
  assert.deepEqual([response.status, response.headers.get('allow')], [405, 'POST'])
  assert.equal(((await response.json()) as any).error.code, 'method_not_allowed')
  const deleted = await fetch(`${api.url}/v1/models/x`, { method: 'DELETE' })
  assert.deepEqual([deleted.status, deleted.headers.get('allow')], [405, 'GET, HEAD'])
  const { status, json } = await api.post('/v1/embeddings', {})
  assert.deepEqual([status, json.error.code, json.error.type], [404, 'unknown_route', 'invalid_request_error'])
  await assertServing(api)
})

test('answers raw nonsense and odd request lines without falling over', async (t) => {
  const api = await startApi(t)
  const { port } = new URL(api.url)
  const raw = async (sent: string): Promise<string> => {
    const socket = connect(Number(port), '127.0.0.1').setTimeout(5_000, () => socket.destroy())
    socket.end(sent)
    let received = ''
    socket.setEncoding('utf8').on('data', (data: string) => (received += data))
    await once(socket, 'close')
    return received
  }
  assert.match(await raw('nonsense\r\n\r\n'), /^HTTP\/1\.1 400/)
  assert.match(await raw('GET /health HTTP/1.1\r\n\r\n'), /^HTTP\/1\.1 400/)
  assert.match(await raw('GET /\\evil HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n'), /^HTTP\/1\.1 400[^]*malformed_request/)
  assert.match(await raw('GET / HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n'), /^HTTP\/1\.1 40[03]/)
  await assertServing(api)
})

test('maps what the driver throws to status and code', async (t) => {
  const api = await startApi(t)
  const unknown = await api.post(CHAT, { ...chat, model: 'nope' })
  assert.deepEqual([unknown.status, unknown.json.error.code, unknown.json.error.param], [404, 'model_not_found', 'model'])
  const long = await api.post(CHAT, { ...chat, messages: [{ role: 'user', content: 'x'.repeat(2000) }] })
  assert.deepEqual([long.status, long.json.error.code, long.json.error.param], [400, 'context_length_exceeded', 'messages'])

  const script = api.queries.script
  const cases: [unknown, number, string, string][] = [
    [new BusyError('all places are taken'), 429, 'busy', 'rate_limit_error'],
    [new NoRouteError(3, 7, 'its hosts left'), 503, 'no_route', 'server_error'],
    [new DeadlineError('too slow'), 504, 'deadline_exceeded', 'server_error'],
    [new Error('secret /var/data/key'), 500, 'internal_error', 'server_error'],
    ['a string', 500, 'internal_error', 'server_error'],
  ]
  for (const stream of [false, true]) {
    for (const [error, status, code, type] of cases) {
      // oxlint-disable-next-line require-yield
      api.queries.script = async function* () {
        throw error
      }
      const answer = await api.post(CHAT, { ...chat, stream })
      assert.deepEqual([answer.status, answer.json.error.code, answer.json.error.type], [status, code, type])
      assert.doesNotMatch(JSON.stringify(answer.json), /secret|at .*\.ts/)
      assert.equal(answer.headers.get('retry-after'), status === 429 ? '1' : null)
    }
  }
  assert.equal(api.logged.filter((line) => line.startsWith('api.failed Error: secret /var/data/key\n')).length, 2)
  api.queries.script = script
  await assertServing(api)
})

test('an error in mid-stream ends the stream without [DONE]', async (t) => {
  const api = await startApi(t)
  const script = api.queries.script
  api.queries.script = async function* () {
    yield { kind: 'start', model: MODEL, promptTokens: 1 }
    yield textEvent(1, 'half')
    throw new NoRouteError(0, 5, 'its host left')
  }
  const seen: string[] = []
  await assert.rejects(
    async () => {
      for await (const chunk of await api.client.chat.completions.create({ ...chat, stream: true })) {
        seen.push(chunk.choices[0]?.delta.content ?? '')
      }
    },
    { code: 'no_route', type: 'server_error' },
  )
  assert.deepEqual(seen, ['', 'half'])
  const raw = await fetch(api.url + TEXT, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...text, stream: true }),
  })
  const events = (await raw.text()).trimEnd().split('\n\n')
  assert.match(events.at(-1) ?? '', /^data: \{"error":\{"message":"no live host serves expert 5 of layer 0/)
  await until('queries ended', () => api.queries.open === 0)
  api.queries.script = script
  await assertServing(api)
})

test('a query that ends without an end is an internal error', async (t) => {
  const api = await startApi(t)
  api.queries.script = async function* () {
    yield { kind: 'start', model: MODEL, promptTokens: 1 }
  }
  assert.equal((await api.post(CHAT, chat)).status, 500)
})
