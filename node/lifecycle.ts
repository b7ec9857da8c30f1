/** Something that runs between its start and its stop. */
export interface Part {
  start(): Promise<void> | void
  stop(): Promise<void> | void
}

/** Each step of stopping may take this long before the next begins all the same. */
const STOP_STEP_MS = 5_000

/** What has been started, to be undone in reverse order. */
export class Lifecycle {
  readonly #steps: { readonly name: string; readonly step: () => Promise<void> | void }[] = []
  readonly #stopping = new AbortController()
  readonly #onFailure: (part: string, error: Error) => void
  #stopped: Promise<void> | null = null

  /** `onFailure` hears of parts that could not be stopped, or not in time. */
  constructor(onFailure: (part: string, error: Error) => void) {
    this.#onFailure = onFailure
  }

  /** Aborted when stopping begins. */
  get signal(): AbortSignal {
    return this.#stopping.signal
  }

  /** Starts the part, and stops it when its turn comes. Throws what its start throws; then it is not stopped. */
  async start(name: string, part: Part): Promise<void> {
    await part.start()
    this.onStop(name, () => part.stop())
  }

  onStop(name: string, step: () => Promise<void> | void): void {
    this.#steps.push({ name, step })
  }

  /** Undoes everything, last first; idempotent, never rejects. */
  stop(): Promise<void> {
    this.#stopped ??= this.#stop()
    return this.#stopped
  }

  async #stop(): Promise<void> {
    this.#stopping.abort(new Error('the node is stopping'))
    for (const { name, step } of this.#steps.splice(0).reverse()) {
      await withinTime(Promise.resolve().then(step), STOP_STEP_MS).catch((error: Error) => this.#onFailure(name, error))
    }
  }
}

async function withinTime(work: Promise<void>, ms: number): Promise<void> {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => reject(new Error(`not done within ${ms} ms`)), ms)
  try {
    await Promise.race([work, late])
  } finally {
    clearTimeout(timer)
  }
}
