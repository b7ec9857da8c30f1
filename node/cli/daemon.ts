import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { defaultDataDir } from '../config.ts'
import { ConfigError } from '../errors.ts'
import { MeshError } from '../../protocols/wire/errors.ts'
import { API_FILE } from '../api/api-file.ts'

/** How a command reaches the running node. */
export interface DaemonOptions {
  readonly api?: string
  readonly apiKey?: string
  readonly data?: string
}

/** Flags of {@link DaemonOptions}, for every command that talks to a node. */
export const DAEMON_FLAGS = Object.freeze([
  ['--api <url>', 'address of the node (default: the one running on the data directory)'],
  ['--api-key <key>', 'its API key, where it has one'],
  ['--data <dir>', 'data directory of the node (default: ~/.skein)'],
] as const)

/** Base URL of the node's API. Throws `ConfigError` when no node seems to be running. */
export async function daemonUrl(options: DaemonOptions): Promise<string> {
  if (options.api !== undefined) {
    if (!URL.canParse(options.api)) throw new ConfigError(`--api ${options.api} is not a URL, for example http://127.0.0.1:4114`)
    return options.api.replace(/\/+$/, '')
  }
  const dataDir = options.data ?? process.env['SKEIN_DATA'] ?? defaultDataDir()
  try {
    const { url } = JSON.parse(await readFile(join(dataDir, API_FILE), 'utf8')) as { url: string }
    return url
  } catch {
    throw new ConfigError(`no node is running on ${dataDir}: start one with "skein up", or name another with --data or --api`)
  }
}

/** Fetches from the node; throws `MeshError` with the node's own words when it refuses. */
export async function daemonFetch(options: DaemonOptions, path: string, init: RequestInit = {}): Promise<Response> {
  const url = await daemonUrl(options)
  const key = options.apiKey ?? process.env['SKEIN_API_KEY']
  const headers = { 'content-type': 'application/json', ...(key === undefined ? {} : { authorization: `Bearer ${key}` }) }
  const response = await fetch(`${url}${path}`, { ...init, headers }).catch((error: Error) => {
    throw new MeshError(`cannot reach the node at ${url}: ${error.cause instanceof Error ? error.cause.message : error.message}`, {
      cause: error,
    })
  })
  if (response.ok) return response
  const body = (await response.json().catch(() => null)) as { error?: { message?: string } } | null
  throw new MeshError(body?.error?.message ?? `the node answered ${response.status}`)
}
