/** Severity of an event; a log shows its level and those above it. */
export type LogLevel = 'silent' | 'error' | 'info' | 'debug'

const RANK: Record<LogLevel, number> = { silent: 0, error: 1, info: 2, debug: 3 }

/** Writes one line per event: time, level, event name, fields as `key=value`. Event names are stable, so that tests and scripts may wait for them. */
export class Log {
  readonly #rank: number
  readonly #write: (line: string) => void

  constructor(level: LogLevel, write: (line: string) => void = (line) => void process.stderr.write(line)) {
    this.#rank = RANK[level]
    this.#write = write
  }

  error(event: string, fields: Record<string, unknown> = {}): void {
    this.#put('error', event, fields)
  }

  info(event: string, fields: Record<string, unknown> = {}): void {
    this.#put('info', event, fields)
  }

  debug(event: string, fields: Record<string, unknown> = {}): void {
    this.#put('debug', event, fields)
  }

  #put(level: Exclude<LogLevel, 'silent'>, event: string, fields: Record<string, unknown>): void {
    if (RANK[level] > this.#rank) return
    const shown = Object.entries(fields).map(([key, value]) => ` ${key}=${shownValue(value)}`)
    this.#write(`${new Date().toISOString()} ${level} ${event}${shown.join('')}\n`)
  }
}

/** Plain words as they are, all else as JSON without control characters: peers choose some of these texts, and terminals obey some of them. */
function shownValue(value: unknown): string {
  if (typeof value === 'string' && /^[!#-<>-~]+$/.test(value)) return value
  const json = JSON.stringify(typeof value === 'bigint' ? value.toString() : value) ?? 'undefined'
  return json.replace(
    /[\u007f-\u009f\u200e\u200f\u2028-\u202e\u2066-\u2069]/g,
    (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`,
  )
}
