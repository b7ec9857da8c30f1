/** `npm start`: what it prints, how it ends, and that nothing of it stays behind. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { fileURLToPath } from 'node:url'
import { CLEAN_ENV, statusOf } from '../helpers/daemon-swarm.ts'
import { until } from '../helpers/until.ts'

const SCRIPT = fileURLToPath(new URL('../../scripts/local-swarm.ts', import.meta.url))
const END_TIMEOUT_MS = 20_000

interface StartRun {
  readonly pid: number
  /** What it wrote to stdout so far. */
  printed(): string
  /** Everything, for errors. */
  said(): string
  /** Exit code, or signal. */
  readonly ended: Promise<number | string>
  /** Where it keeps its files. */
  readonly temporaryDir: string
}

/** Starts the script as `npm start` does, its temporary files in a folder of their own. */
async function start(t: TestContext, args: readonly string[]): Promise<StartRun> {
  const temporaryDir = await mkdtemp(join(tmpdir(), 'skein-start-'))
  const child = spawn(process.execPath, [SCRIPT, '--api-port', '0', ...args], {
    // Its home lies there too: what the program leaves in either shows.
    env: { ...CLEAN_ENV, TMPDIR: temporaryDir, HOME: temporaryDir },
    stdio: ['ignore', 'pipe', 'pipe'],
    // A group of its own, as a terminal gives to what it runs: the test can press Ctrl-C there.
    detached: true,
  })
  let stdout = ''
  let stderr = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const ended = new Promise<number | string>((resolve) => child.on('exit', (code, signal) => resolve(code ?? signal ?? 'unknown')))
  t.after(async () => {
    try {
      process.kill(-child.pid!, 'SIGKILL')
    } catch {
      // Nothing is left of the group, as it should be.
    }
    await ended
    await rm(temporaryDir, { recursive: true, force: true, maxRetries: 5 })
  })
  return { pid: child.pid!, printed: () => stdout, said: () => `${stdout}\n${stderr}`, ended, temporaryDir }
}

/** The processes that it says to have started: name → pid. */
function processesOf(printed: string): Map<string, number> {
  return new Map([...printed.matchAll(/^ {2}(\S+) +pid (\d+) /gm)].map(([, name, pid]) => [name!, Number(pid)]))
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** Processes that run a daemon of this checkout in the given folder, started or only about to. */
async function daemonsOf(dir: string): Promise<number[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)
  const lines = await Promise.all(pids.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')))
  return pids.filter((_, i) => lines[i]!.includes(dir) && lines[i]!.includes('main.ts'))
}

/** Resolves when the swarm has answered and keeps running. */
async function running(run: StartRun): Promise<void> {
  const isUp = (): boolean => {
    assert.doesNotMatch(run.said(), /^failed: /m)
    return run.printed().includes('Ctrl-C stops it')
  }
  await until(isUp, { what: 'the swarm runs', timeoutMs: 60_000 }).catch((error: Error) => assert.fail(`${error.message}\n${run.said()}`))
}

async function endOf(run: StartRun): Promise<number | string> {
  const late = new Promise<'late'>((resolve) => setTimeout(() => resolve('late'), END_TIMEOUT_MS).unref())
  return await Promise.race([run.ended, late])
}

test('--once answers on the hosts and exits with 0', { timeout: 120_000 }, async (t) => {
  const run = await start(t, ['--once', '--prompt', 'Tell me a fairy tale about a king.'])
  const startedAt = performance.now()
  const code = await run.ended
  assert.equal(code, 0, run.said())
  t.diagnostic(`${((performance.now() - startedAt) / 1000).toFixed(1)} s`)
  const printed = run.printed()
  assert.match(printed, /^> Tell me a fairy tale about a king\.\n\n\S/m)
  assert.match(printed, /^exact: true /m)
  const served = [...printed.matchAll(/^(host-\d) +\S+ +remote +(\d+) +(\d+) +([\d,-]+)$/gm)]
  // Each has answered a call before the question; which of them it then uses is for the measured times to say.
  assert.ok(new Set(served.map(([, name]) => name)).size >= 2, printed)
  for (const [, name, calls] of served) assert.ok(Number(calls) > 0, `${name} served ${calls} calls`)
  const pids = processesOf(printed)
  assert.deepEqual([...pids.keys()].sort().join(' '), 'gateway host-1 host-2 host-3')
  for (const [name, pid] of pids) assert.equal(isAlive(pid), false, `${name} is still there`)
  assert.deepEqual(await readdir(run.temporaryDir), [], 'temporary files were left')
})

test('Ctrl-C stops all four processes', { timeout: 120_000 }, async (t) => {
  const run = await start(t, [])
  await running(run)
  const pids = processesOf(run.printed())
  assert.equal(pids.size, 4)
  for (const [name, pid] of pids) assert.ok(isAlive(pid), name)
  const url = /^ {2}api +(\S+)\/v1$/m.exec(run.printed())![1]!
  assert.equal((await statusOf(url)).ready, true)

  // A terminal tells the whole group.
  process.kill(-run.pid, 'SIGINT')
  assert.equal(await endOf(run), 0, run.said())
  for (const [name, pid] of pids) assert.equal(isAlive(pid), false, `${name} is still there`)
  assert.deepEqual(await readdir(run.temporaryDir), [], 'temporary files were left')
})

test(
  'a signal to it alone, while it starts, leaves no process behind',
  { timeout: 120_000, skip: !existsSync('/proc/self/cmdline') },
  async (t) => {
    const run = await start(t, ['--once'])
    await until(async () => (await daemonsOf(run.temporaryDir)).length >= 3, { what: 'the hosts are starting', timeoutMs: 60_000 })
    process.kill(run.pid, 'SIGINT')
    assert.equal(await endOf(run), 1, run.said())
    assert.deepEqual(await daemonsOf(run.temporaryDir), [])
    assert.deepEqual(await readdir(run.temporaryDir), [], 'temporary files were left')
  },
)

test('a daemon that dies ends the swarm with an error that names it', { timeout: 120_000 }, async (t) => {
  const run = await start(t, [])
  await running(run)
  process.kill(processesOf(run.printed()).get('host-2')!, 'SIGKILL')
  assert.equal(await endOf(run), 1, run.said())
  assert.match(run.said(), /failed: host-2 ended with SIGKILL/)
  for (const [name, pid] of processesOf(run.printed())) assert.equal(isAlive(pid), false, `${name} is still there`)
})

test('daemons whose swarm was killed without warning stop by themselves', { timeout: 120_000 }, async (t) => {
  const run = await start(t, [])
  await running(run)
  process.kill(run.pid, 'SIGKILL')
  const pids = processesOf(run.printed())
  assert.equal(pids.size, 4)
  await until(() => [...pids.values()].every((pid) => !isAlive(pid)), { what: 'all daemons are gone', timeoutMs: END_TIMEOUT_MS })
})
