import type { IncomingMessage } from 'node:http'
import { HttpError } from './errors.ts'

/**
 * Reads a request's body as JSON; holds at most `maxBytes` of it.
 * Throws `HttpError` 415 (not JSON by its headers), 413 (too large), 400 (not UTF-8, not JSON) and 499 (client left).
 */
export async function readJson(incoming: IncomingMessage, maxBytes: number): Promise<unknown> {
  const type = incoming.headers['content-type'] ?? ''
  if (!/^application\/(?:[\w.-]+\+)?json\s*(?:;|$)/i.test(type)) {
    const sent = type === '' ? 'no content-type' : `content-type ${JSON.stringify(type.slice(0, 100))}`
    throw new HttpError(415, 'unsupported_media_type', `The request came with ${sent}; send "content-type: application/json".`)
  }
  const encoding = incoming.headers['content-encoding'] ?? 'identity'
  if (encoding !== 'identity') {
    throw new HttpError(415, 'unsupported_media_type', 'Compressed request bodies are not supported; send the JSON as it is.')
  }
  const bytes = await readBytes(incoming, maxBytes)
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new HttpError(400, 'invalid_json', 'The request body is not UTF-8; send JSON encoded as UTF-8.')
  }
  try {
    return JSON.parse(text)
  } catch {
    throw new HttpError(400, 'invalid_json', 'The request body is not valid JSON; check quotes, commas and brackets.')
  }
}

async function readBytes(incoming: IncomingMessage, maxBytes: number): Promise<Buffer> {
  const tooLarge = new HttpError(413, 'body_too_large', `The request body is larger than ${maxBytes} bytes, the limit of this node.`)
  if (Number(incoming.headers['content-length'] ?? 0) > maxBytes) throw tooLarge
  const chunks: Buffer[] = []
  let size = 0
  return await new Promise((resolve, reject) => {
    const settle = (act: () => void): void => {
      incoming.off('data', onData).off('end', onEnd).off('error', onGone).off('close', onGone)
      act()
    }
    const onData = (chunk: Buffer): void => {
      size += chunk.length
      if (size <= maxBytes) chunks.push(chunk)
      // The rest flows on unread, so that the client gets to see the answer.
      else settle(() => reject(tooLarge))
    }
    const onEnd = (): void => settle(() => resolve(Buffer.concat(chunks)))
    const onGone = (): void => settle(() => reject(new HttpError(499, 'client_closed', 'The client closed its connection.')))
    incoming.on('data', onData).on('end', onEnd).on('error', onGone).on('close', onGone)
    if (incoming.destroyed) onGone()
  })
}
