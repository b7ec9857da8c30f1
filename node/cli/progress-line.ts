export interface Progress {
  readonly bytes: number
  readonly totalBytes: number
}

/** Where progress is written; `process.stderr` is one. */
export interface ProgressOutput {
  readonly isTTY?: boolean
  write(text: string): unknown
}

const REDRAW_MS = 100
/** Into a file or a pipe a line is written this often. */
const LOG_MS = 10_000
const BAR_WIDTH = 24

/** Share, rate and time left of something that takes long: one line redrawn in place on a terminal, now and then a line elsewhere. */
export class ProgressLine {
  readonly #what: string
  readonly #output: ProgressOutput
  readonly #now: () => number
  #first: { readonly at: number; readonly bytes: number } | undefined
  #drawnAt = -Infinity
  #isDrawn = false

  constructor(what: string, output: ProgressOutput, now: () => number = () => performance.now()) {
    this.#what = what
    this.#output = output
    this.#now = now
  }

  draw({ bytes, totalBytes }: Progress): void {
    const now = this.#now()
    // What an earlier run has done says nothing of this one's rate.
    this.#first ??= { at: now, bytes }
    if (this.#drawnAt === -Infinity && this.#output.isTTY !== true) this.#drawnAt = now
    if (now - this.#drawnAt < (this.#output.isTTY === true ? REDRAW_MS : LOG_MS)) return
    this.#drawnAt = now
    const text = describe(bytes, totalBytes, (bytes - this.#first.bytes) / ((now - this.#first.at) / 1000))
    if (this.#output.isTTY !== true) this.#output.write(`${this.#what} ${text}\n`)
    else {
      const filled = Math.floor((BAR_WIDTH * bytes) / Math.max(1, totalBytes))
      this.#output.write(`\r\u001B[K${this.#what} ${'█'.repeat(filled)}${'░'.repeat(BAR_WIDTH - filled)} ${text}`)
      this.#isDrawn = true
    }
  }

  /** Removes the line from a terminal. */
  clear(): void {
    if (this.#isDrawn) this.#output.write('\r\u001B[K')
    this.#isDrawn = false
  }
}

function describe(bytes: number, totalBytes: number, rate: number): string {
  const share = Math.floor((100 * bytes) / Math.max(1, totalBytes))
  const start = `${share} % of ${size(totalBytes)}`
  if (!(rate > 0) || !Number.isFinite(rate)) return start
  return `${start}, ${size(rate)}/s, ${duration((totalBytes - bytes) / rate)} left`
}

/** Bytes for people: 31.5 MB, 13.84 GB. */
export function size(bytes: number): string {
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`
}

function duration(seconds: number): string {
  const whole = Math.ceil(seconds)
  if (whole < 60) return `${whole} s`
  const minutes = Math.floor(whole / 60)
  if (minutes < 60) return `${minutes} min ${whole % 60} s`
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
