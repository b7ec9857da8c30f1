import { spawn } from 'node:child_process'
import { createWriteStream } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { withProcessSettings } from '../node/process-environment.ts'

/** A `skein up` in a process of its own. */
export interface DaemonProcess {
  /** What was given as `--name`, else its peer id. */
  readonly name: string
  readonly pid: number
  readonly peer: string
  readonly addresses: readonly string[]
  /** Base URL of its API. */
  readonly url: string
  /** Exit code or signal. */
  readonly exited: Promise<number | string>
  /** What it wrote to stderr, the last of it. */
  output(): string
  /** Asks it to stop, and insists after a while; resolves when it is gone. */
  stop(): Promise<void>
  /** Takes it away without warning. */
  kill(): Promise<void>
}

const MAIN = fileURLToPath(new URL('../node/main.ts', import.meta.url))
const START_TIMEOUT_MS = 60_000
/** Longer than a node hands over, drains and stops. */
const STOP_TIMEOUT_MS = 45_000
const OUTPUT_CHARACTERS = 64 * 1024

export interface DaemonInit {
  /** Default: this process' own. */
  readonly env?: NodeJS.ProcessEnv
  /** Takes the process away while it starts. */
  readonly signal?: AbortSignal
  /** Words before the command, such as `ip netns exec <name>`; the program they name must become the command. */
  readonly prefix?: readonly string[]
  /** Where all that it writes to stderr is kept. */
  readonly logFile?: string
}

/**
 * Starts `skein up` with the flags and resolves once it serves; rejects with what it said when it does not. It never outlives this
 * process: the daemon stops when its IPC channel ends.
 */
export async function spawnDaemon(flags: readonly string[], init: DaemonInit = {}): Promise<DaemonProcess> {
  init.signal?.throwIfAborted()
  const [program = process.execPath, ...args] = [...(init.prefix ?? []), process.execPath, MAIN, 'up', ...flags]
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe', 'ipc'], env: withProcessSettings(init.env ?? process.env) })
  const killNow = (): void => void child.kill('SIGKILL')
  process.once('exit', killNow)
  init.signal?.addEventListener('abort', killNow, { once: true })
  let errors = ''
  let printed = ''
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (errors = (errors + text).slice(-OUTPUT_CHARACTERS)))
  if (init.logFile !== undefined) child.stderr!.pipe(createWriteStream(init.logFile))
  const exited = new Promise<number | string>((resolve) => {
    child.on('exit', (code, signal) => {
      process.off('exit', killNow)
      resolve(code ?? signal ?? 'unknown')
    })
  })
  const serving = new Promise<void>((resolve) => {
    child.stdout!.setEncoding('utf8').on('data', (text: string) => {
      printed = (printed + text).slice(-OUTPUT_CHARACTERS)
      if (/^api .*\n/m.test(printed)) resolve()
    })
  })
  const late = AbortSignal.timeout(START_TIMEOUT_MS)
  const timedOut = new Promise<'late'>((resolve) => late.addEventListener('abort', () => resolve('late'), { once: true }))
  const first = await Promise.race([serving.then(() => 'serving' as const), exited.then((code) => ({ code })), timedOut])
  init.signal?.removeEventListener('abort', killNow)
  if (first !== 'serving') {
    killNow()
    await exited
    throw new Error(
      `skein up ${first === 'late' ? `did not serve within ${START_TIMEOUT_MS} ms` : `ended with ${first.code}`}: ${errors.trim()}`,
    )
  }
  const signal = async (name: NodeJS.Signals): Promise<void> => {
    child.kill(name)
    const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS)
    await exited
    clearTimeout(timer)
  }
  const peer = /^peer +(\S+)/m.exec(printed)![1]!
  const named = flags.indexOf('--name')
  return {
    name: named >= 0 ? flags[named + 1]! : peer,
    pid: child.pid!,
    peer,
    addresses: [...printed.matchAll(/^listening +(\S+)/gm)].map((match) => match[1]!),
    url: /^api +(\S+?)\/v1/m.exec(printed)![1]!,
    exited,
    output: () => errors,
    stop: () => signal('SIGTERM'),
    kill: () => signal('SIGKILL'),
  }
}
