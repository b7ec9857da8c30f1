import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect } from 'node:net'
import { test } from 'node:test'
import { Registry } from 'prom-client'
import { createApi } from '../../../node/api/api.ts'
import type { QueryEvent, QueryRequest } from '../../../node/driver/query.ts'
import { MODEL, NO_HOLDINGS, ScriptedQueries, startApi, textEvent, until, SCRIPTED_NETWORK } from './scripted.ts'

const chat = { model: MODEL, messages: [{ role: 'user' as const, content: 'x' }] }

/** Says one word, then nothing until its signal aborts. */
async function* hang(request: QueryRequest): AsyncGenerator<QueryEvent> {
  yield { kind: 'start', model: MODEL, promptTokens: 1 }
  yield textEvent(1, 'first')
  request.signal?.throwIfAborted()
  await once(request.signal!, 'abort')
  throw request.signal!.reason
}

test('a client that leaves its stream cancels the query', async (t) => {
  const { client, queries, metrics } = await startApi(t)
  queries.script = hang
  for await (const chunk of await client.chat.completions.create({ ...chat, stream: true })) {
    if (chunk.choices[0]?.delta.content === 'first') break
  }
  await until('the query ended', () => queries.open === 0)
  const { signal } = queries.asked[0]!
  assert.equal(signal?.aborted, true)
  assert.match(await metrics(), /skein_query_seconds_count\{outcome="cancelled"\} 1/)
})

test('a client that leaves without an answer cancels the query', async (t) => {
  const { client, queries, metrics, logged } = await startApi(t)
  queries.script = hang
  const left = new AbortController()
  const answer = client.chat.completions.create(chat, { signal: left.signal })
  await until('the query runs', () => queries.open === 1)
  left.abort()
  await assert.rejects(answer, { name: 'Error', message: 'Request was aborted.' })
  await until('the query ended', () => queries.open === 0)
  const counted = 'skein_http_requests_total{route="/v1/chat/completions",status="499"} 1'
  await until('the request was counted', async () => (await metrics()).includes(counted))
  assert.deepEqual(logged, [])
})

test('a query is asked only as fast as the client reads, and given up when it does not read', async (t) => {
  const { url, queries } = await startApi(t, { keepAliveMs: 50, stallMs: 200 })
  let made = 0
  queries.script = async function* () {
    yield { kind: 'start', model: MODEL, promptTokens: 1 }
    for (; ; made++) yield textEvent(1, 'x'.repeat(100_000))
  }
  const body = JSON.stringify({ ...chat, stream: true })
  const socket = connect(Number(new URL(url).port), '127.0.0.1')
  t.after(() => socket.destroy())
  socket.pause()
  socket.write(
    `POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  )
  await until('the query was given up', () => queries.asked.length === 1 && queries.open === 0, 10_000)
  assert.ok(made < 1000, `${made} pieces for a client that read none`)
})

test('keeps a silent stream alive with comments', async (t) => {
  const { url, queries } = await startApi(t, { keepAliveMs: 20 })
  queries.script = hang
  const response = await fetch(`${url}/v1/chat/completions`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ ...chat, stream: true }),
    signal: AbortSignal.timeout(10_000),
  })
  let text = ''
  for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
    text += piece
    if (text.split(': keep-alive\n\n').length > 3) break
  }
  assert.match(text, /"content":"first"[^]*: keep-alive\n\n: keep-alive\n\n/)
})

test('a query over its time is ended with 504', async (t) => {
  const { queries, post } = await startApi(t, { queryMs: 50 })
  queries.script = hang
  const { status, json } = await post('/v1/chat/completions', chat)
  assert.deepEqual([status, json.error.code], [504, 'deadline_exceeded'])
})

test('stop ends streams with an error, cancels queries and is quick', async (t) => {
  const { client, queries, stop, url } = await startApi(t, { stopGraceMs: 30_000 })
  queries.script = hang
  const stops: Promise<void>[] = []
  const startedAt = performance.now()
  await assert.rejects(
    async () => {
      for await (const chunk of await client.chat.completions.create({ ...chat, stream: true })) {
        if (chunk.choices[0]?.delta.content === 'first') stops.push(stop())
      }
    },
    { code: 'stopping' },
  )
  await Promise.all(stops)
  assert.ok(performance.now() - startedAt < 5_000, 'without waiting out keep-alive or grace')
  assert.equal(queries.open, 0)
  await assert.rejects(fetch(`${url}/health`))
  await stop()
})

test('stop cuts queries that do not heed their signal', async (t) => {
  const { client, queries, stop } = await startApi(t, { stopGraceMs: 50 })
  const release = Promise.withResolvers<void>()
  queries.script = async function* () {
    yield { kind: 'start', model: MODEL, promptTokens: 1 }
    await release.promise
  }
  const answer = assert.rejects(client.chat.completions.create(chat))
  await until('the query runs', () => queries.open === 1)
  await stop()
  await answer
  release.resolve()
})

test('starts and stops in any order, and again', async (t) => {
  const services = {
    queries: new ScriptedQueries(),
    models: () => [],
    swarm: () => assert.fail('not asked'),
    experts: () => [],
    metrics: new Registry(),
    holdings: NO_HOLDINGS,
    network: SCRIPTED_NETWORK,
  }
  const api = createApi(services, { host: '127.0.0.1', port: 0, log: () => undefined })
  t.after(() => api.stop())
  await api.stop()
  const [{ url }, again] = await Promise.all([api.start(), api.start()])
  assert.equal(again.url, url)
  await api.stop()
  const restarted = await api.start()
  assert.equal((await fetch(`${restarted.url}/v1/models`)).status, 200)
  void api.start()
  await api.stop()
  await assert.rejects(fetch(`${restarted.url}/v1/models`))
})

test('a port in use is a configuration error that names the flag', async (t) => {
  const { url } = await startApi(t)
  const port = Number(new URL(url).port)
  await assert.rejects(startApi(t, { port }), { name: 'ConfigError', message: new RegExp(`port ${port} .* --api-port`) })
  await assert.rejects(startApi(t, { host: '203.0.113.1', apiKey: 'sk-x' }), { name: 'ConfigError', message: /--api-host/ })
})
