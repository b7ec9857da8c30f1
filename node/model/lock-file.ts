import { open, readFile, rm } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { errorCode } from './files.ts'

const POLL_MS = 25

/**
 * Takes an advisory lock among the processes of one machine; returns how to release it.
 * A lock whose owner is dead is taken over, and after `timeoutMs` the caller goes on without it: it saves double work, no more.
 * Rejects with `signal.reason`.
 */
export async function acquireLock(path: string, timeoutMs: number, signal?: AbortSignal): Promise<() => Promise<void>> {
  const deadline = performance.now() + timeoutMs
  while (performance.now() < deadline) {
    signal?.throwIfAborted()
    if (await create(path)) return () => rm(path, { force: true })
    const owner = await readOwner(path)
    if (owner !== undefined && !isAlive(owner)) await rm(path, { force: true })
    else await delay(POLL_MS, undefined, signal === undefined ? {} : { signal }).catch(() => signal?.throwIfAborted())
  }
  return async () => {}
}

async function create(path: string): Promise<boolean> {
  try {
    const file = await open(path, 'wx')
    try {
      await file.writeFile(String(process.pid))
    } finally {
      await file.close()
    }
    return true
  } catch (error) {
    if (errorCode(error) === 'EEXIST') return false
    throw error
  }
}

/** Undefined while the owner has not written its process id yet, or has just gone. */
async function readOwner(path: string): Promise<number | undefined> {
  try {
    const pid = Number(await readFile(path, 'utf8'))
    return Number.isSafeInteger(pid) && pid > 0 ? pid : undefined
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined
    throw error
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return errorCode(error) === 'EPERM'
  }
}
