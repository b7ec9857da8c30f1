import { getRequestListener } from '@hono/node-server'
import { createServer, type Server } from 'node:http'
import { inspect } from 'node:util'
import { ConfigError } from '../errors.ts'
import { createApp, type Log } from './app.ts'
import { createGuard } from './guard.ts'
import { LIMITS } from './limits.ts'
import { createMetrics } from './metrics.ts'
import { loadPage } from './page.ts'
import { stoppingError } from './scope.ts'
import type { ApiServices } from './services.ts'

export interface ApiInit {
  /** Address or name to listen on; beyond loopback only with `apiKey`. */
  readonly host: string
  /** 0 takes any free port. */
  readonly port: number
  /** Bearer token that every request needs, except for the page and /health; null for none. */
  readonly apiKey?: string | null
  /** Gets what clients are not told, such as the errors behind a 500. */
  readonly log: Log
  /** Host names under which a proxy serves this node, besides loopback's. */
  readonly allowedHosts?: readonly string[]
  /** Origins of web pages that may call from a browser. */
  readonly allowedOrigins?: readonly string[]
  /** Defaults: {@link LIMITS}. */
  readonly maxBodyBytes?: number
  readonly queryMs?: number
  readonly keepAliveMs?: number
  readonly stallMs?: number
  readonly stopGraceMs?: number
}

export interface Api {
  /** Listens. Throws `ConfigError` when it can't, naming the flag to change. Idempotent. */
  start(): Promise<{ readonly url: string }>
  /** Refuses new requests, ends running ones with an error, and closes; takes at most about `stopGraceMs`. Idempotent; never throws. */
  stop(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * The OpenAI-compatible HTTP face of a node. Throws `ConfigError` for a host beyond loopback without an API key.
 *
 * @example
 * const api = createApi(services, { host: '127.0.0.1', port: 4114, log })
 * const { url } = await api.start()
 */
export function createApi(services: ApiServices, init: ApiInit): Api {
  const allowedOrigins = init.allowedOrigins ?? []
  const guard = createGuard({ host: init.host, apiKey: init.apiKey ?? null, allowedHosts: init.allowedHosts ?? [], allowedOrigins })
  const metrics = createMetrics(services.metrics)

  const open = async (): Promise<Running> => {
    const stopping = new AbortController()
    const app = createApp({
      services,
      metrics,
      guard,
      page: await loadPage(),
      log: init.log,
      allowedOrigins,
      bodyBytes: init.maxBodyBytes ?? LIMITS.bodyBytes,
      queryMs: init.queryMs ?? LIMITS.queryMs,
      keepAliveMs: init.keepAliveMs ?? LIMITS.keepAliveMs,
      stallMs: init.stallMs ?? LIMITS.stallMs,
      stopping: stopping.signal,
    })
    const listener = getRequestListener((request, env) => app.fetch(request, env as Parameters<typeof app.fetch>[1]), {
      // The process belongs to the node, not to its HTTP library.
      overrideGlobalObjects: false,
      errorHandler: (error) => app.refuse(error),
    })
    const server = createServer({ headersTimeout: LIMITS.headMs, requestTimeout: LIMITS.receiveMs }, (incoming, outgoing) => {
      // A connection that turns idle while the server closes would otherwise hold it open until its keep-alive time is up.
      outgoing.once('close', () => stopping.signal.aborted && setImmediate(() => server.closeIdleConnections()))
      void listener(incoming, outgoing)
    })
    server.maxConnections = LIMITS.connections
    await listen(server, init.host, init.port)
    server.on('error', (error) => init.log('api.server.failed', { error: inspect(error) }))
    return { server, stopping, url: urlOf(server, init.host) }
  }

  let running: Promise<Running> | null = null
  let closing: Promise<void> = Promise.resolve()
  const stop = async (): Promise<void> => {
    const current = running
    running = null
    if (current !== null) closing = current.then((one) => close(one, init.stopGraceMs ?? LIMITS.stopGraceMs)).catch(() => undefined)
    await closing
  }
  return {
    async start() {
      await closing
      const current = (running ??= open())
      try {
        return { url: (await current).url }
      } catch (error) {
        if (running === current) running = null
        throw error
      }
    },
    stop,
    [Symbol.asyncDispose]: stop,
  }
}

interface Running {
  readonly server: Server
  readonly stopping: AbortController
  readonly url: string
}

async function close({ server, stopping }: Running, graceMs: number): Promise<void> {
  const closed = new Promise<void>((resolve) => {
    server.close(() => resolve())
  })
  stopping.abort(stoppingError())
  const timer = setTimeout(() => server.closeAllConnections(), graceMs)
  await closed
  clearTimeout(timer)
}

async function listen(server: Server, host: string, port: number): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen({ host, port }, () => {
      server.off('error', reject)
      resolve()
    })
  }).catch((error: NodeJS.ErrnoException) => {
    throw new ConfigError(listenFault(error, host, port), { cause: error })
  })
}

function listenFault(error: NodeJS.ErrnoException, host: string, port: number): string {
  if (error.code === 'EADDRINUSE')
    return `port ${port} of ${host} is in use: choose another with --api-port (0 takes any free one), or stop what holds it`
  if (error.code === 'EACCES') return `port ${port} of ${host} is not allowed to this user: choose one above 1023 with --api-port`
  if (error.code === 'EADDRNOTAVAIL' || error.code === 'ENOTFOUND')
    return `${host} is no address of this machine: choose another with --api-host`
  return `can't listen on port ${port} of ${host} (${error.code ?? error.name}): check --api-host and --api-port`
}

function urlOf(server: Server, host: string): string {
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`
}
