import { setTimeout as delay } from 'node:timers/promises'

export interface UntilOptions {
  /** What is waited for, for the error. */
  readonly what: string
  readonly timeoutMs?: number
  readonly intervalMs?: number
}

const DEFAULT_TIMEOUT_MS = 20_000
const DEFAULT_INTERVAL_MS = 20

/** Resolves with the first value of `probe` that is neither false, null nor undefined; rejects when none came in time. */
export async function until<T>(probe: () => T | Promise<T>, options: UntilOptions): Promise<Exclude<T, false | null | undefined>> {
  const { what, timeoutMs = DEFAULT_TIMEOUT_MS, intervalMs = DEFAULT_INTERVAL_MS } = options
  const deadline = performance.now() + timeoutMs
  for (;;) {
    const value = await probe()
    if (value !== false && value !== null && value !== undefined) return value as Exclude<T, false | null | undefined>
    if (performance.now() > deadline) throw new Error(`not within ${timeoutMs} ms: ${what}`)
    await delay(intervalMs)
  }
}
