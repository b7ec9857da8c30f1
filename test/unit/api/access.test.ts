import assert from 'node:assert/strict'
import { request } from 'node:http'
import { test } from 'node:test'
import { Registry } from 'prom-client'
import { createApi } from '../../../node/api/api.ts'
import type { ApiInit } from '../../../node/api/api.ts'
import { isLoopbackHost } from '../../../node/api/guard.ts'
import { MODEL, NO_HOLDINGS, ScriptedQueries, startApi, SCRIPTED_NETWORK } from './scripted.ts'

const body = JSON.stringify({ model: MODEL, messages: [{ role: 'user', content: 'x' }], max_tokens: 1 })

/** Sends headers that fetch would not let us set; resolves to status, headers and error code. */
async function send(url: string, method: string, path: string, headers: Record<string, string>) {
  return await new Promise<{ status: number; code: string | undefined; headers: NodeJS.Dict<string | string[]> }>((resolve, reject) => {
    const outgoing = request(
      url + path,
      { method, headers: { 'content-type': 'application/json', ...headers }, timeout: 5_000 },
      (response) => {
        let text = ''
        response.setEncoding('utf8').on('data', (data: string) => (text += data))
        response.on('end', () => {
          const code = response.headers['content-type']?.includes('json') ? JSON.parse(text).error?.code : undefined
          resolve({ status: response.statusCode ?? 0, code, headers: response.headers })
        })
      },
    )
    outgoing.on('error', reject).on('timeout', () => outgoing.destroy(new Error('timed out')))
    outgoing.end(method === 'POST' ? body : undefined)
  })
}

test('on loopback serves loopback names only', async (t) => {
  const { url } = await startApi(t)
  const { port } = new URL(url)
  for (const host of [`127.0.0.1:${port}`, 'localhost', `localhost:${port}`, `[::1]:${port}`, '127.1.2.3']) {
    assert.equal((await send(url, 'GET', '/api/swarm', { host })).status, 200, host)
  }
  for (const host of ['evil.example', `evil.example:${port}`, '192.168.1.7', 'localhost.evil.example', '127.0.0.1.evil.example']) {
    assert.deepEqual(Object.values(await send(url, 'GET', '/api/swarm', { host })).slice(0, 2), [403, 'host_not_allowed'], host)
    assert.equal((await send(url, 'GET', '/', { host })).status, 403, host)
  }
})

test('refuses posts of other origins’ pages, and gives them no CORS', async (t) => {
  const { url, queries } = await startApi(t)
  const chat = '/v1/chat/completions'
  for (const origin of ['https://evil.example', 'http://localhost:1', 'null', 'garbage']) {
    assert.deepEqual(Object.values(await send(url, 'POST', chat, { origin })).slice(0, 2), [403, 'origin_not_allowed'], origin)
  }
  assert.equal(queries.asked.length, 0)
  assert.equal((await send(url, 'POST', chat, { origin: url })).status, 200)
  const read = await send(url, 'GET', '/v1/models', { origin: 'https://evil.example' })
  assert.equal(read.headers['access-control-allow-origin'], undefined)
})

test('lets in the origins and hosts it is told to', async (t) => {
  const { url } = await startApi(t, { allowedOrigins: ['https://ui.example'], allowedHosts: ['mesh.example'] })
  const chat = '/v1/chat/completions'
  const preflight = await send(url, 'OPTIONS', chat, { origin: 'https://ui.example', 'access-control-request-method': 'POST' })
  assert.deepEqual([preflight.status, preflight.headers['access-control-allow-origin']], [204, 'https://ui.example'])
  const posted = await send(url, 'POST', chat, { origin: 'https://ui.example' })
  assert.deepEqual([posted.status, posted.headers['access-control-allow-origin']], [200, 'https://ui.example'])
  assert.equal((await send(url, 'POST', chat, { origin: 'https://evil.example' })).status, 403)
  assert.equal((await send(url, 'GET', '/v1/models', { host: 'mesh.example:8080' })).status, 200)
})

test('wants the API key for everything but the page and health', async (t) => {
  const { url, client, post } = await startApi(t, { apiKey: 'sk-right' })
  for (const authorization of [undefined, 'Bearer sk-wrong', 'Basic sk-right', 'Bearer ', 'sk-right']) {
    for (const path of ['/v1/models', '/api/swarm', '/api/experts', '/metrics', '/nowhere']) {
      const answer = await send(url, 'GET', path, authorization === undefined ? {} : { authorization })
      assert.deepEqual([answer.status, answer.code, answer.headers['www-authenticate']], [401, 'invalid_api_key', 'Bearer'])
    }
  }
  const { status, json } = await post('/v1/chat/completions', '{broken', { authorization: 'Bearer sk-wrong' })
  assert.deepEqual([status, json.error.type], [401, 'invalid_request_error'])
  assert.equal((await send(url, 'GET', '/health', {})).status, 200)
  assert.equal((await send(url, 'GET', '/', {})).status, 200)
  assert.equal((await client.models.list()).data.length, 1)
})

test('refuses to listen beyond loopback without a key', () => {
  const create = (init: Partial<ApiInit>) =>
    createApi(
      {
        queries: new ScriptedQueries(),
        models: () => [],
        swarm: () => assert.fail(),
        experts: () => [],
        metrics: new Registry(),
        holdings: NO_HOLDINGS,
        network: SCRIPTED_NETWORK,
      },
      { host: '127.0.0.1', port: 0, log: () => undefined, ...init },
    )
  for (const host of ['0.0.0.0', '::', '192.168.1.7', 'mesh.example']) {
    assert.throws(() => create({ host }), { name: 'ConfigError', message: /--api-key/ })
    create({ host, apiKey: 'sk-x' })
  }
  assert.throws(() => create({ apiKey: '' }), { name: 'ConfigError', message: /--api-key/ })
})

test('beyond loopback any Host goes, with the key', async (t) => {
  const { url } = await startApi(t, { host: '0.0.0.0', apiKey: 'sk-x' })
  const here = url.replace('0.0.0.0', '127.0.0.1')
  assert.equal((await send(here, 'GET', '/v1/models', { host: 'mesh.example' })).status, 401)
  assert.equal((await send(here, 'GET', '/v1/models', { host: 'mesh.example', authorization: 'Bearer sk-x' })).status, 200)
})

test('knows loopback from the rest', () => {
  for (const host of ['127.0.0.1', '127.255.0.9', '::1', '[::1]', 'localhost', 'LOCALHOST', 'a.localhost', '::ffff:127.0.0.1']) {
    assert.equal(isLoopbackHost(host), true, host)
  }
  for (const host of ['0.0.0.0', '::', '10.0.0.1', 'localhost.example', '127.0.0.1.example', '', '::ffff:10.0.0.1']) {
    assert.equal(isLoopbackHost(host), false, host)
  }
})
