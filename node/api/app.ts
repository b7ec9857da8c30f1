import { inspect } from 'node:util'
import { RequestError, type HttpBindings } from '@hono/node-server'
import { Hono, type Context, type Handler } from 'hono'
import { cors } from 'hono/cors'
import { ModelMissingError } from '../errors.ts'
import { answerStream, answerWhole } from './answer.ts'
import { readJson } from './body.ts'
import { CHAT_FORMAT } from './chat-format.ts'
import { parseChatRequest } from './chat-request.ts'
import { COMPLETION_FORMAT } from './completion-format.ts'
import { parseCompletionRequest } from './completion-request.ts'
import { HttpError, toFailure, type Failure } from './errors.ts'
import { eventStream } from './event-stream.ts'
import type { Format } from './format.ts'
import type { HoldingEvent } from '../host/holdings-service.ts'
import type { Guard } from './guard.ts'
import { parseInviteRequest } from './invite-request.ts'
import { parseHoldRequest, parseReleaseRequest } from './holdings-request.ts'
import type { ApiMetrics } from './metrics.ts'
import type { Page } from './page.ts'
import type { Asked } from './request-fields.ts'
import { openScope, stoppingError } from './scope.ts'
import type { Scope } from './scope.ts'
import type { ApiServices, ModelInfo } from './services.ts'

type Env = { Bindings: HttpBindings; Variables: { route: string } }

/** Tells the operator what clients are not told. */
export type Log = (event: string, fields: Readonly<Record<string, unknown>>) => void

export interface AppInit {
  readonly services: ApiServices
  readonly metrics: ApiMetrics
  readonly guard: Guard
  readonly page: Page
  readonly log: Log
  readonly allowedOrigins: readonly string[]
  readonly bodyBytes: number
  readonly queryMs: number
  readonly keepAliveMs: number
  readonly stallMs: number
  readonly stopping: AbortSignal
}

export interface App {
  fetch(request: Request, env: HttpBindings): Response | Promise<Response>
  /** The response for what failed outside of every route. */
  refuse(error: unknown): Response
}

/** Routes that anyone may read: they tell nothing about the node, and probes and browsers can't send a key at first. */
const OPEN_ROUTES: readonly string[] = ['/', '/health']

/** All routes of the HTTP face over the node's services. */
export function createApp(init: AppInit): App {
  const { services, metrics, guard, page, stopping } = init
  const app = new Hono<Env>()

  const failed = (error: unknown, route: string): Failure => {
    const failure = toFailure(error)
    if (!failure.expected) init.log('api.failed', { route, error: inspect(error) })
    return failure
  }
  const refuse = (error: unknown, route: string): Response => {
    const { status, headers, body } = failed(error, route)
    return Response.json(body, { status, headers })
  }

  app.use(async (c, next) => {
    c.set('route', 'unknown')
    await next()
    c.res.headers.set('x-content-type-options', 'nosniff')
    if (!c.res.headers.has('cache-control')) c.res.headers.set('cache-control', 'no-store')
    metrics.requests.inc({ route: c.get('route'), status: c.res.status })
  })
  if (init.allowedOrigins.length > 0) {
    app.use(cors({ origin: [...init.allowedOrigins], allowMethods: ['GET', 'POST'], allowHeaders: ['authorization', 'content-type'] }))
  }
  app.use(async (c, next) => {
    const { host, origin, authorization } = c.env.incoming.headers
    const caller = { method: c.req.method, host, origin, authorization }
    guard.checkSite(caller)
    if (!OPEN_ROUTES.includes(c.req.path)) {
      guard.checkKey(caller)
      if (stopping.aborted) throw stoppingError()
    }
    await next()
  })
  app.onError((error, c) => refuse(error, c.get('route')))
  app.notFound((c) => refuse(new HttpError(404, 'unknown_route', `There is nothing at ${c.req.method} ${c.req.path}.`), c.get('route')))

  const route = (method: 'GET' | 'POST', path: string, handler: Handler<Env>): void => {
    app.on(method, path, (c, next) => {
      c.set('route', path)
      return handler(c, next)
    })
    const allow = method === 'GET' ? 'GET, HEAD' : method
    app.all(path, (c) => {
      c.set('route', path)
      throw new HttpError(405, 'method_not_allowed', `${c.req.method} is not possible here; use ${method}.`, { allow })
    })
  }

  const answer = (parse: (body: unknown) => Asked, format: Format): Handler<Env> => {
    return async (c) => {
      const asked = parse(await readJson(c.env.incoming, init.bodyBytes))
      return await answerAsked(c, asked, format)
    }
  }

  const answerAsked = async (c: Context<Env>, asked: Asked, format: Format): Promise<Response> => {
    const scope = openScope({ client: c.req.raw.signal, stopping, timeoutMs: init.queryMs })
    const answerInit = { queries: services.queries, metrics, asked, format, signal: scope.signal }
    if (asked.stream) return await respondWithStream(c, scope, answerStream(answerInit))
    try {
      return c.json(await answerWhole(answerInit))
    } finally {
      scope.close()
    }
  }

  /** Server-sent events; what fails before the first is still answered with a status. */
  const respondWithStream = async (c: Context<Env>, scope: Scope, chunks: AsyncGenerator<readonly object[], void>): Promise<Response> => {
    let isStreaming = false
    try {
      const first = await chunks.next()
      isStreaming = true
      const stream = eventStream({
        chunks,
        first: first.value ?? [],
        keepAliveMs: init.keepAliveMs,
        stallMs: init.stallMs,
        describe: (error) => failed(error, c.get('route')).body,
        stalled: () => c.env.outgoing.destroy(),
        cancelled: () => scope.leave(),
        ended: () => scope.close(),
      })
      return new Response(stream, { headers: { 'content-type': 'text/event-stream; charset=utf-8', 'cache-control': 'no-cache' } })
    } finally {
      if (!isStreaming) scope.close()
    }
  }

  const holdings = <T>(
    parse: (body: unknown) => T,
    act: (request: T, signal: AbortSignal) => AsyncGenerator<HoldingEvent>,
  ): Handler<Env> => {
    return async (c) => {
      const request = parse(await readJson(c.env.incoming, init.bodyBytes))
      const scope = openScope({ client: c.req.raw.signal, stopping, timeoutMs: init.queryMs })
      return await respondWithStream(c, scope, singly(act(request, scope.signal)))
    }
  }

  route('POST', '/v1/chat/completions', answer(parseChatRequest, CHAT_FORMAT))
  route('POST', '/v1/completions', answer(parseCompletionRequest, COMPLETION_FORMAT))
  route('GET', '/v1/models', (c) => c.json({ object: 'list', data: services.models().map(modelObject) }))
  route('GET', '/v1/models/:id', (c) => {
    const id = c.req.param('id')
    const model = services.models().find((one) => one.name === id || one.id === id)
    if (model === undefined) throw new ModelMissingError('This node does not have the model; GET /v1/models lists those it has.')
    return c.json(modelObject(model))
  })
  route('GET', '/health', (c) => {
    if (stopping.aborted) return c.json({ status: 'stopping', ready: false }, 503)
    return c.json({ status: 'ok', ready: services.swarm().ready })
  })
  route('GET', '/metrics', async (c) => c.body(await services.metrics.metrics(), 200, { 'content-type': services.metrics.contentType }))
  route(
    'POST',
    '/api/hold',
    holdings(parseHoldRequest, (request, signal) => services.holdings.hold(request, signal)),
  )
  route(
    'POST',
    '/api/release',
    holdings(parseReleaseRequest, (request, signal) => services.holdings.release(request, signal)),
  )
  route('POST', '/api/invite', async (c) => {
    const request = parseInviteRequest(await readJson(c.env.incoming, init.bodyBytes))
    return c.json({ invite: await services.network.invite(request), expiresAt: request.expiresAt, uses: request.uses })
  })
  route('GET', '/api/peers', (c) => c.json({ peers: services.network.peers() }))
  route('GET', '/api/network', async (c) => c.json(await services.network.report()))
  route('GET', '/api/swarm', (c) => c.json(services.swarm()))
  route('GET', '/api/experts', (c) => c.json({ models: services.experts() }))
  route('GET', '/', (c) => c.html(page.html, 200, { 'content-security-policy': page.csp, 'referrer-policy': 'no-referrer' }))

  return {
    fetch: (request, env) => app.fetch(request, env),
    refuse(error) {
      const shown =
        error instanceof RequestError ? new HttpError(400, 'malformed_request', 'The request line or its Host header is malformed.') : error
      return refuse(shown, 'unknown')
    },
  }
}

async function* singly<T extends object>(events: AsyncGenerator<T>): AsyncGenerator<readonly T[], void> {
  for await (const event of events) yield [event]
}

function modelObject(model: ModelInfo): object {
  const { name, id, createdAt, coverage, architecture, quant, maxContext } = model
  return { id: name, object: 'model', created: createdAt, owned_by: 'skein', skein: { coverage, architecture, quant, maxContext, cid: id } }
}
