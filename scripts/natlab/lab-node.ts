import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import type { SwarmStatus } from '../../node/api/services.ts'
import type { QueryReport } from '../../node/driver/query.ts'
import { spawnDaemon } from '../daemon-process.ts'
import type { DaemonProcess } from '../daemon-process.ts'

const PROBE = fileURLToPath(new URL('./http-probe.ts', import.meta.url))
/** The settings of whoever runs the lab are not those of its nodes. */
const ENV = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('SKEIN_')))
const POLL_MS = 50

/** The answer to a query, as far as the lab looks at it. */
export interface LabAnswer {
  readonly text: string
  readonly tokens: number
  readonly report: QueryReport
}

interface Reply {
  readonly id: number
  readonly status?: number
  readonly body?: unknown
  readonly error?: string
}

/** An event that a node has logged. */
export interface LoggedEvent {
  readonly at: number
  readonly name: string
  readonly fields: string
}

/** A Skein daemon on a machine of the lab, and a process beside it that talks to its API, which listens on loopback only. */
export class LabNode {
  readonly daemon: DaemonProcess
  readonly #probe: ChildProcess
  readonly #waiting = new Map<number, (reply: Reply) => void>()
  #lastId = 0

  private constructor(daemon: DaemonProcess, probe: ChildProcess) {
    this.daemon = daemon
    this.#probe = probe
    createInterface({ input: probe.stdout! }).on('line', (line) => {
      const reply = JSON.parse(line) as Reply
      this.#waiting.get(reply.id)?.(reply)
      this.#waiting.delete(reply.id)
    })
  }

  static async start<Host extends string>(
    lab: { on(host: Host): readonly string[] },
    host: Host,
    flags: readonly string[],
  ): Promise<LabNode> {
    const args = [...lab.on(host).slice(1), process.execPath, PROBE]
    const probe = spawn('ip', args, { stdio: ['pipe', 'pipe', 'inherit'], env: ENV })
    try {
      return new LabNode(await spawnDaemon(flags, { prefix: lab.on(host), env: ENV }), probe)
    } catch (error) {
      probe.kill('SIGKILL')
      throw error
    }
  }

  async status(): Promise<SwarmStatus> {
    return (await this.#request('/api/swarm')) as SwarmStatus
  }

  /** Asks a question; greedy, so that equal questions have equal answers. Rejects with what the node said when it refuses. */
  async ask(prompt: string, maxTokens: number): Promise<LabAnswer> {
    const answer = (await this.#request('/v1/chat/completions', {
      model: 'ember',
      messages: [{ role: 'user', content: prompt }],
      max_tokens: maxTokens,
      temperature: 0,
    })) as { choices: [{ message: { content: string } }]; usage: { completion_tokens: number }; skein: QueryReport }
    return { text: answer.choices[0].message.content, tokens: answer.usage.completion_tokens, report: answer.skein }
  }

  /** Waits until `is` holds of the node's status. */
  async until(is: (status: SwarmStatus) => boolean, what: string, timeoutMs: number): Promise<SwarmStatus> {
    const deadline = performance.now() + timeoutMs
    for (;;) {
      const status = await this.status()
      if (is(status)) return status
      if (performance.now() > deadline) throw new Error(`${this.daemon.name}: ${what} not within ${timeoutMs} ms\n${this.daemon.output()}`)
      await new Promise((resolve) => setTimeout(resolve, POLL_MS))
    }
  }

  /** What the node has logged so far, as far as it is kept. */
  events(): LoggedEvent[] {
    return [...this.daemon.output().matchAll(/^(\S+) \w+ ([a-z][\w.]+)(.*)$/gm)].map(([, at, name, fields]) => ({
      at: Date.parse(at!),
      name: name!,
      fields: fields!,
    }))
  }

  async stop(): Promise<void> {
    this.#probe.stdin!.end()
    await this.daemon.stop()
  }

  async #request(path: string, body?: unknown): Promise<unknown> {
    const id = ++this.#lastId
    const { promise, resolve } = Promise.withResolvers<Reply>()
    this.#waiting.set(id, resolve)
    this.#probe.stdin!.write(`${JSON.stringify({ id, url: `${this.daemon.url}${path}`, body })}\n`)
    const reply = await promise
    if (reply.status !== 200)
      throw new Error(`${this.daemon.name}: ${path}: ${reply.error ?? JSON.stringify(reply.body)}\n${this.daemon.output()}`)
    return reply.body
  }
}
