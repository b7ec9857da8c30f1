import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/** What the server was asked for, in order. */
export interface Request {
  readonly path: string
  readonly range: string | undefined
  readonly authorization: string | undefined
  /** Whether it came to the store that the hub redirects large files to. */
  readonly isStore: boolean
}

export interface HubServerInit {
  readonly repo: string
  readonly files: Readonly<Record<string, Uint8Array>>
  /** Without it, a request is refused with 401. */
  readonly token?: string
  /** Files above this are kept as LFS objects: sha-256 in the listing, a redirect to a store on another origin. */
  readonly lfsAbove?: number
  /** Called for every request for bytes of a file; what it returns is done instead of answering. */
  readonly trouble?: (request: Request, response: ServerResponse) => boolean
}

interface Teardown {
  after(fn: () => Promise<void>): void
}

export interface HubServer {
  readonly endpoint: string
  readonly commit: string
  readonly requests: Request[]
}

/** A server on loopback that speaks the hub's protocol, with its object store on a second port. */
export async function hubServer(t: Teardown, init: HubServerInit): Promise<HubServer> {
  const commit = createHash('sha1').update(init.repo).digest('hex')
  const requests: Request[] = []
  const remember = (message: IncomingMessage, isStore: boolean): Request => {
    const { range, authorization } = message.headers
    const request = { path: message.url!, range, authorization, isStore }
    requests.push(request)
    return request
  }
  const isLfs = (content: Uint8Array): boolean => content.byteLength > (init.lfsAbove ?? 1024)
  const store = await listen(t, (message, response) => {
    const request = remember(message, true)
    if (init.trouble?.(request, response) === true) return
    // Signed addresses are refused when they come with other credentials too.
    if (request.authorization !== undefined) response.writeHead(400).end('credentials twice')
    else sendBytes(request, response, init.files[decodeURIComponent(request.path.slice(1))]!)
  })
  const endpoint = await listen(t, (message, response) => {
    const request = remember(message, false)
    if (init.token !== undefined && request.authorization !== `Bearer ${init.token}`) {
      response.writeHead(401, { 'content-type': 'application/json' }).end('{"error":"Invalid username or password."}')
      return
    }
    const api = `/api/models/${init.repo}/revision/`
    const resolve = `/${init.repo}/resolve/`
    if (request.path.startsWith(api)) {
      const revision = decodeURIComponent(new URL(request.path, 'http://x').pathname.slice(api.length))
      if (revision !== 'main' && revision !== commit) response.writeHead(404).end('{"error":"Revision Not Found"}')
      else response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(listing()))
      return
    }
    const [revision, ...names] = request.path.startsWith(resolve) ? request.path.slice(resolve.length).split('/') : []
    const name = names.map(decodeURIComponent).join('/')
    const content = init.files[name]
    if (content === undefined || revision !== commit) response.writeHead(404).end('Entry not found')
    else if (isLfs(content)) {
      const sha256 = createHash('sha256').update(content).digest('hex')
      const location = `${store}/${encodeURIComponent(name)}`
      response
        .writeHead(302, { location, 'x-linked-etag': `"${sha256}"`, 'x-linked-size': content.byteLength, 'x-repo-commit': commit })
        .end()
    } else if (init.trouble?.(request, response) !== true) sendBytes(request, response, content)
  })
  const listing = (): unknown => ({
    _id: '0',
    id: init.repo,
    sha: commit,
    siblings: Object.entries(init.files).map(([rfilename, content]) => {
      const size = content.byteLength
      const blobId = createHash('sha1').update(`blob ${size}\0`).update(content).digest('hex')
      if (!isLfs(content)) return { rfilename, size, blobId }
      return { rfilename, size, blobId, lfs: { sha256: createHash('sha256').update(content).digest('hex'), size, pointerSize: 135 } }
    }),
  })
  return { endpoint, commit, requests }
}

async function listen(t: Teardown, handler: (message: IncomingMessage, response: ServerResponse) => void): Promise<string> {
  const server: Server = createServer(handler)
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(async () => {
    server.closeAllConnections()
    server.close()
    await once(server, 'close')
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

function sendBytes({ range }: Request, response: ServerResponse, content: Uint8Array): void {
  const etag = `"${createHash('sha256').update(content).digest('hex')}"`
  const [, from, to] = /^bytes=(\d+)-(\d+)$/.exec(range ?? '') ?? []
  if (from === undefined || to === undefined) {
    response.writeHead(200, { 'content-length': content.byteLength, etag, 'accept-ranges': 'bytes' }).end(content)
    return
  }
  const part = content.subarray(Number(from), Number(to) + 1)
  const headers = { 'content-length': part.byteLength, 'content-range': `bytes ${from}-${to}/${content.byteLength}`, etag }
  response.writeHead(206, headers).end(part)
}
