import { fork } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import { withProcessSettings } from '../../node/process-environment.ts'
import type { Workspace } from './workspace.ts'

/** What load times are stated for. */
export const LOAD_BYTES = 30e6

/** What the processes of the engine bench are asked; each answers with numbers. */
export type EngineRequest =
  /** Opens the model. */
  | { readonly op: 'open'; readonly threads: number }
  /** A prompt of so many tokens in a new sequence: milliseconds. */
  | { readonly op: 'prefill'; readonly tokens: number }
  /** Tokens one by one after it: milliseconds of each. */
  | { readonly op: 'decode'; readonly tokens: number }
  /** So many tokens of so many new sequences, one of each in every pass: milliseconds of each pass. */
  | { readonly op: 'decode-together'; readonly sequences: number; readonly tokens: number }
  /**
   * Opens one shard per layer, runs all their experts and closes them. Answers: bytes of the shards, resident bytes before, while they are
   * in use and after, then milliseconds per 30 MB that each took to open.
   */
  | { readonly op: 'shards'; readonly threads: number }

export interface EngineReply {
  readonly error: string | null
  readonly samples: readonly number[]
}

/** A process that answers requests one by one. */
export interface EngineChild {
  ask(request: EngineRequest): Promise<readonly number[]>
  end(): Promise<void>
}

const ANSWER_TIMEOUT_MS = 600_000

/** Starts a script beside this one; it ends with the workspace. */
export function startEngineChild(workspace: Workspace, script: string, args: readonly string[]): EngineChild {
  const child = fork(fileURLToPath(new URL(script, import.meta.url)), args, {
    env: withProcessSettings(process.env),
    stdio: ['ignore', 2, 2, 'ipc'],
  })
  workspace.onClose(() => void child.kill('SIGKILL'))
  const ended = once(child, 'exit').then(([code]) => ({ error: `${script} ended with ${code as number | null}`, samples: [] }))
  return {
    async ask(request) {
      child.send(request)
      const answered = once(child, 'message', { signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) }).then(([reply]) => reply as EngineReply)
      const reply = await Promise.race([answered, ended])
      if (reply.error !== null) throw new Error(reply.error)
      return reply.samples
    },
    async end() {
      child.kill()
      await ended
    },
  }
}

/** The other end: answers this process' parent until it goes. */
export function answerParent(handle: (request: EngineRequest) => Promise<readonly number[]>): void {
  process.on('message', (request: EngineRequest) => {
    handle(request).then(
      (samples) => process.send!({ error: null, samples } satisfies EngineReply),
      (error: Error) => process.send!({ error: error.stack ?? error.message, samples: [] } satisfies EngineReply),
    )
  })
  process.on('disconnect', () => process.exit())
}

/** Token ids that are spread over the vocabulary, the same for all that ask with the same seed. */
export function tokenSource(seed: number, vocabSize: number): (count: number) => number[] {
  let state = seed
  return (count) =>
    Array.from({ length: count }, () => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
      return (state >>> 8) % vocabSize
    })
}
