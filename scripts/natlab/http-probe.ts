/**
 * Makes HTTP requests from a machine of the lab: reads lines of JSON `{ id, url, body? }`, writes for each `{ id, status, body, ms }` or
 * `{ id, error }`. Ends with its stdin.
 */
import { createInterface } from 'node:readline'

interface Request {
  readonly id: number
  readonly url: string
  readonly body?: unknown
}

const REQUEST_TIMEOUT_MS = 120_000

async function answer({ id, url, body }: Request): Promise<void> {
  const startedAt = performance.now()
  try {
    const signal = AbortSignal.timeout(REQUEST_TIMEOUT_MS)
    const post = { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body), signal }
    const response = await fetch(url, body === undefined ? { signal } : post)
    console.log(JSON.stringify({ id, status: response.status, body: await response.json(), ms: performance.now() - startedAt }))
  } catch (error) {
    console.log(JSON.stringify({ id, error: (error as Error).message }))
  }
}

createInterface({ input: process.stdin })
  .on('line', (line) => void answer(JSON.parse(line) as Request))
  .on('close', () => process.exit(0))
