import { spawn } from 'node:child_process'
import { mkdir, open, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { MeshError } from '../../protocols/wire/errors.ts'
import { ConfigError } from '../errors.ts'
import { API_FILE } from '../api/api-file.ts'

const MAIN = fileURLToPath(new URL('../main.ts', import.meta.url))
const START_TIMEOUT_MS = 60_000
const POLL_MS = 50
const LOG_LINES = 5

/** A `skein up` that goes on when this process ends. */
export interface BackgroundDaemon {
  readonly pid: number
  /** Base URL of its API. */
  readonly url: string
  readonly logFile: string
}

/** Process id and API of the node that runs on the data directory; null when none does. */
export async function runningDaemon(dataDir: string): Promise<{ pid: number; url: string } | null> {
  try {
    const { pid, url } = JSON.parse(await readFile(join(dataDir, API_FILE), 'utf8')) as { pid: number; url: string }
    process.kill(pid, 0)
    return { pid, url }
  } catch {
    return null
  }
}

/** Starts `skein up` with the flags and resolves once it serves. Throws `ConfigError` when one runs there already, `MeshError` with its last words when it ends. */
export async function startInBackground(dataDir: string, flags: readonly string[]): Promise<BackgroundDaemon> {
  const running = await runningDaemon(dataDir)
  if (running !== null) {
    throw new ConfigError(
      `a node is already running on ${dataDir} (process ${running.pid}): stop it with "skein down", or pass another --data`,
    )
  }
  await mkdir(dataDir, { recursive: true })
  const logFile = join(dataDir, 'daemon.log')
  const log = await open(logFile, 'w', 0o600)
  const child = spawn(process.execPath, [MAIN, 'up', '--data', dataDir, ...flags], { detached: true, stdio: ['ignore', log.fd, log.fd] })
  let ended: number | string | null = null
  child.on('exit', (code, signal) => (ended = code ?? signal ?? 'unknown'))
  const failed = new Promise<never>((_, reject) => child.on('error', reject))
  failed.catch(() => {})
  try {
    const deadline = performance.now() + START_TIMEOUT_MS
    while (performance.now() < deadline) {
      const started = await Promise.race([runningDaemon(dataDir), failed])
      if (started !== null && started.pid === child.pid) {
        child.unref()
        return { pid: started.pid, url: started.url, logFile }
      }
      if (ended !== null) break
      await delay(POLL_MS)
    }
    if (ended === null) child.kill()
    const words = (await readFile(logFile, 'utf8')).trim().split('\n').slice(-LOG_LINES).join('\n')
    throw new MeshError(`the node did not start: ${words.replace(/^skein: /m, '')}`)
  } finally {
    await log.close()
  }
}
