import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { spawnDaemon } from '../daemon-process.ts'
import type { DaemonProcess } from '../daemon-process.ts'

/** A temporary folder and everything that was started for a bench; all of it goes with `close`. */
export class Workspace {
  readonly dir: string
  readonly #ends: (() => Promise<void> | void)[] = []
  #closing: Promise<void> | null = null

  private constructor(dir: string) {
    this.dir = dir
  }

  static async open(): Promise<Workspace> {
    return new Workspace(await mkdtemp(join(tmpdir(), 'skein-bench-')))
  }

  /** Remembers how to end something; ends run in reverse order. Runs at once when the workspace is already closing. */
  onClose(end: () => Promise<void> | void): void {
    if (this.#closing === null) this.#ends.push(end)
    else void Promise.resolve().then(end)
  }

  /** `skein up` with these flags, see {@link spawnDaemon}; also ended when it is only about to serve. */
  async spawn(flags: readonly string[]): Promise<DaemonProcess> {
    if (this.#closing !== null) throw new Error('the bench is being stopped')
    const starting = spawnDaemon(flags)
    this.onClose(() =>
      starting.then(
        (daemon) => daemon.stop(),
        () => {},
      ),
    )
    return await starting
  }

  /** Ends everything and removes the folder; idempotent. */
  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  async #close(): Promise<void> {
    await Promise.allSettled(this.#ends.reverse().map((end) => Promise.resolve().then(end)))
    await rm(this.dir, { recursive: true, force: true, maxRetries: 5 })
  }
}
