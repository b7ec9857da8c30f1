import { createHash, timingSafeEqual } from 'node:crypto'
import { BlockList, isIP } from 'node:net'
import { ConfigError } from '../errors.ts'
import { HttpError } from './errors.ts'

const LOOPBACK = new BlockList()
LOOPBACK.addSubnet('127.0.0.0', 8, 'ipv4')
LOOPBACK.addAddress('::1', 'ipv6')

/** What of a request decides whether it is let in. */
export interface Caller {
  readonly method: string
  readonly host: string | undefined
  readonly origin: string | undefined
  readonly authorization: string | undefined
}

export interface GuardInit {
  /** Address or name that the API listens on. */
  readonly host: string
  readonly apiKey: string | null
  /** Host names beyond loopback's that a proxy in front may pass on. */
  readonly allowedHosts: readonly string[]
  /** Origins of web pages, such as `https://example.org`, that may call the API from a browser. */
  readonly allowedOrigins: readonly string[]
}

export interface Guard {
  /** Throws `HttpError` 403 for a foreign Host or Origin: another site's page may be using the user's browser to get here. */
  checkSite(caller: Caller): void
  /** Throws `HttpError` 401 without the right API key. */
  checkKey(caller: Caller): void
}

/** Decides who may call. Throws `ConfigError` when the API would listen beyond loopback without a key. */
export function createGuard(init: GuardInit): Guard {
  const { apiKey, allowedHosts, allowedOrigins } = init
  const local = isLoopbackHost(init.host)
  if (apiKey === '') throw new ConfigError('the API key is empty: set --api-key to a secret, or leave it out to listen on loopback only')
  if (!local && apiKey === null) {
    throw new ConfigError(`listening on ${init.host} lets others in: set --api-key, or listen on 127.0.0.1 with --api-host`)
  }
  const keyHash = apiKey === null ? null : hash(apiKey)
  return {
    checkSite({ method, host, origin }) {
      // Beyond loopback the node can't know its names; there the key, which a browser does not add by itself, protects.
      const name = hostName(host ?? '')
      if (local && (name === null || (!isLoopbackHost(name) && !allowedHosts.includes(name)))) {
        throw new HttpError(
          403,
          'host_not_allowed',
          'This Host is not served here; use 127.0.0.1 or localhost, or allow the name explicitly.',
        )
      }
      if (origin === undefined || method === 'GET' || method === 'HEAD' || allowedOrigins.includes(origin)) return
      if (!URL.canParse(origin) || new URL(origin).host !== host?.toLowerCase()) {
        throw new HttpError(
          403,
          'origin_not_allowed',
          'Web pages of other origins may not call this node, unless their origin is allowed explicitly.',
        )
      }
    },
    checkKey({ authorization }) {
      if (keyHash === null) return
      const key = /^Bearer\s+(\S+)\s*$/i.exec(authorization ?? '')?.[1]
      if (key !== undefined && timingSafeEqual(hash(key), keyHash)) return
      const what = key === undefined ? 'No API key was given' : 'The API key is wrong'
      throw new HttpError(401, 'invalid_api_key', `${what}; send "authorization: Bearer <key>" with this node's key.`, {
        'www-authenticate': 'Bearer',
      })
    },
  }
}

/** Whether a host (name or address, without port) can only mean this machine. */
export function isLoopbackHost(host: string): boolean {
  const bare = host.replace(/^\[|\]$/g, '').toLowerCase()
  if (bare === 'localhost' || bare.endsWith('.localhost')) return true
  const version = isIP(bare)
  return version !== 0 && LOOPBACK.check(bare, version === 6 ? 'ipv6' : 'ipv4')
}

/** Host header without its port, lower case; null if it is not one. */
function hostName(header: string): string | null {
  return /^(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?$/.exec(header.toLowerCase())?.[1] ?? null
}

/** Equal lengths for the constant-time comparison, whatever the caller sent. */
function hash(key: string): Buffer {
  return createHash('sha256').update(key).digest()
}
