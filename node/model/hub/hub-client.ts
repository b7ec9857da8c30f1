import { ModelError } from '../../errors.ts'
import type { HubReference } from './reference.ts'

export const LIMITS = Object.freeze({
  /** Answer of the hub's API: some thousand files. */
  listingBytes: 32 * 2 ** 20,
  files: 100_000,
})

export const TIMEOUTS = Object.freeze({
  /** Until the head of an answer is there, redirects included. */
  headMs: 30_000,
})

export interface HubSettings {
  /** Address of the hub, without a slash at the end. */
  readonly endpoint: string
  readonly token: string | null
}

/** A file of a repository at one commit. */
export interface HubFile {
  readonly path: string
  readonly bytes: number
  /** Of large files, sha-256; of others the hash that git gives to their content. */
  readonly hash: { readonly kind: 'sha256' | 'git'; readonly hex: string }
}

export interface HubListing {
  readonly commit: string
  readonly files: readonly HubFile[]
}

/** An answer that may be another one when asked again: the network, the server, too many requests. */
export class PassingError extends Error {
  override name = 'PassingError'
  readonly retryAfterMs: number

  constructor(message: string, retryAfterMs = 0, options?: ErrorOptions) {
    super(message, options)
    this.retryAfterMs = retryAfterMs
  }
}

/**
 * Asks a hub over HTTP: `/api/models/<repo>/revision/<revision>?blobs=true` for what there is, `/<repo>/resolve/<commit>/<path>` for bytes.
 * The token goes to the hub only, not to the addresses that it redirects to.
 */
export class HubClient {
  readonly #settings: HubSettings

  constructor(settings: HubSettings) {
    this.#settings = settings
  }

  get endpoint(): string {
    return this.#settings.endpoint
  }

  /** Files at the commit that a revision stands for. Throws `ModelError`, `PassingError` or `signal.reason`. */
  async list({ repo, revision }: HubReference, signal: AbortSignal): Promise<HubListing> {
    const url = `${this.endpoint}/api/models/${repo}/revision/${encodeURIComponent(revision)}?blobs=true`
    const response = await this.#get(url, {}, signal)
    if (!response.ok) throw await this.#refusal(response, `model ${repo} at revision ${revision}`)
    const text = await boundedText(response, LIMITS.listingBytes)
    return parseListing(text, url)
  }

  /** Bytes `from..to-1` of a file as they come. Throws `ModelError`, `PassingError` or `signal.reason`. */
  async range(
    repo: string,
    commit: string,
    file: HubFile,
    from: number,
    to: number,
    signal: AbortSignal,
  ): Promise<AsyncIterable<Uint8Array>> {
    const path = file.path.split('/').map(encodeURIComponent).join('/')
    const url = `${this.endpoint}/${repo}/resolve/${commit}/${path}`
    const isWhole = from === 0 && to === file.bytes
    const response = await this.#get(url, isWhole ? {} : { range: `bytes=${from}-${to - 1}` }, signal)
    if (!response.ok) throw await this.#refusal(response, `${repo}/${file.path}`)
    if (!isWhole && response.status !== 206) {
      await response.body?.cancel()
      throw new ModelError(`${this.endpoint} does not send parts of files (${file.path}): use another hub address (--hub)`)
    }
    if (response.body === null) throw new PassingError(`${file.path} came without content`)
    return response.body
  }

  async #get(url: string, headers: Record<string, string>, signal: AbortSignal): Promise<Response> {
    const { token } = this.#settings
    const deadline = AbortSignal.timeout(TIMEOUTS.headMs)
    const head = new AbortController()
    const forward = (event: Event): void => head.abort((event.target as AbortSignal).reason)
    signal.addEventListener('abort', forward)
    deadline.addEventListener('abort', forward)
    try {
      signal.throwIfAborted()
      // Compressed content would have other byte numbers.
      const all = { 'accept-encoding': 'identity', ...headers, ...(token === null ? {} : { authorization: `Bearer ${token}` }) }
      const response = await fetch(url, { headers: all, signal: head.signal })
      signal.addEventListener('abort', () => void response.body?.cancel().catch(() => {}), { once: true })
      return response
    } catch (error) {
      signal.throwIfAborted()
      throw new PassingError(`${new URL(url).host} can't be reached (${reasonOf(error)})`, 0, { cause: error })
    } finally {
      deadline.removeEventListener('abort', forward)
    }
  }

  async #refusal(response: Response, what: string): Promise<Error> {
    await response.body?.cancel()
    const { status } = response
    const hasToken = this.#settings.token !== null
    if (status === 401 || status === 403) {
      const remedy = hasToken
        ? 'check that HF_TOKEN is valid and that its owner has accepted the terms'
        : 'set HF_TOKEN, and accept the terms'
      return new ModelError(
        `${this.endpoint} refuses ${what} (${status}): it does not exist, or is private or gated; ${remedy} on the model's page`,
      )
    }
    if (status === 404) return new ModelError(`${this.endpoint} has no ${what}: check the spelling of name and revision`)
    if (status === 429 || status >= 500) {
      return new PassingError(`${this.endpoint} answers ${status} for ${what}`, 1000 * (Number(response.headers.get('retry-after')) || 0))
    }
    return new ModelError(`${this.endpoint} answers ${status} for ${what}: check the hub's address (--hub)`)
  }
}

function parseListing(text: string, url: string): HubListing {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw new ModelError(`${url} does not answer with JSON: check the hub's address (--hub)`, { cause: error })
  }
  const { sha, siblings } = (typeof value === 'object' && value !== null ? value : {}) as Record<string, unknown>
  if (typeof sha !== 'string' || !/^[0-9a-f]{7,64}$/.test(sha) || !Array.isArray(siblings) || siblings.length > LIMITS.files) {
    throw new ModelError(`${url} does not answer as a hub does (sha, siblings): check the hub's address (--hub)`)
  }
  const files = siblings.map(parseFile).filter((file) => file !== undefined)
  return { commit: sha, files }
}

/** Undefined for entries without size or hash; what needs them says that it misses them. */
function parseFile(value: unknown): HubFile | undefined {
  const { rfilename: path, size, blobId, lfs } = value as Record<string, unknown>
  if (typeof path !== 'string' || typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0) return undefined
  const sha256 = typeof lfs === 'object' && lfs !== null && 'sha256' in lfs ? lfs.sha256 : undefined
  if (typeof sha256 === 'string' && /^[0-9a-f]{64}$/.test(sha256)) return { path, bytes: size, hash: { kind: 'sha256', hex: sha256 } }
  return typeof blobId === 'string' && /^[0-9a-f]{40}$/.test(blobId) ? { path, bytes: size, hash: { kind: 'git', hex: blobId } } : undefined
}

async function boundedText(response: Response, maxBytes: number): Promise<string> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of response.body ?? []) {
    bytes += chunk.byteLength
    if (bytes > maxBytes) throw new ModelError(`${response.url} answers with more than ${maxBytes} bytes: check the hub's address (--hub)`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

/** The system's reason, which fetch hides in the cause. */
function reasonOf(error: unknown): string {
  const { cause, message } = error as Error
  return cause instanceof Error && cause.message !== '' ? cause.message : message
}
