import { ModelError } from '../errors.ts'

/** Typed, bounded reading of a Hugging Face `config.json`; every complaint is a `ModelError` naming file and field. */
export class HfConfig {
  readonly #fields: Record<string, unknown>
  readonly #path: string
  readonly #prefix: string
  readonly #read = new Set<string>()

  /** `prefix`: of the fields' names in messages. */
  constructor(fields: Record<string, unknown>, path: string, prefix = '') {
    this.#fields = fields
    this.#path = path
    this.#prefix = prefix
  }

  get names(): readonly string[] {
    return Object.keys(this.#fields)
  }

  /** Fields that nobody has asked for. */
  get unread(): readonly string[] {
    return this.names.filter((name) => !this.#read.has(name))
  }

  /** The fields of an object within this one; none when it is missing or null. */
  group(field: string): HfConfig {
    const value = this.#get(field) ?? {}
    if (typeof value !== 'object' || Array.isArray(value)) throw this.#wrong(field, 'an object')
    return new HfConfig(value as Record<string, unknown>, this.#path, `${this.#prefix}${field}.`)
  }

  /** A whole number in 1..max; a missing or null field takes `fallback`, or is an error without one. */
  count(field: string, max: number, fallback?: number): number {
    return this.#wholeFrom(1, field, max, fallback)
  }

  /** A whole number in 0..max; like `count` otherwise. */
  whole(field: string, max: number, fallback?: number): number {
    return this.#wholeFrom(0, field, max, fallback)
  }

  /** A number above 0; like `count` otherwise. */
  positive(field: string, fallback?: number): number {
    const value = this.#get(field) ?? fallback
    if (typeof value !== 'number' || !(value > 0) || !Number.isFinite(value)) throw this.#wrong(field, 'a number above 0')
    return value
  }

  /** Any finite number. */
  number(field: string, fallback: number): number {
    const value = this.#get(field) ?? fallback
    if (typeof value !== 'number' || !Number.isFinite(value)) throw this.#wrong(field, 'a number')
    return value
  }

  flag(field: string, fallback: boolean): boolean {
    const value = this.#get(field) ?? fallback
    if (typeof value !== 'boolean') throw this.#wrong(field, 'true or false')
    return value
  }

  /** The field as it stands; undefined when missing or null. */
  raw(field: string): unknown {
    return this.#get(field) ?? undefined
  }

  /** Refuses the checkpoint for something that this version does not run. */
  unsupported(field: string, why: string): ModelError {
    return new ModelError(`${this.#path}: ${this.#prefix}${field} ${JSON.stringify(this.#fields[field]) ?? ''} is not supported: ${why}`)
  }

  #wholeFrom(min: number, field: string, max: number, fallback: number | undefined): number {
    const value = this.#get(field) ?? fallback
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < min || value > max) {
      throw this.#wrong(field, `a whole number from ${min} to ${max}`)
    }
    return value
  }

  #get(field: string): unknown {
    this.#read.add(field)
    return this.#fields[field]
  }

  #wrong(field: string, expected: string): ModelError {
    const value = this.#fields[field]
    const found = value === undefined ? 'is missing' : `is ${JSON.stringify(value)?.slice(0, 80)}`
    return new ModelError(`${this.#path}: ${this.#prefix}${field} ${found}; expected ${expected}`)
  }
}
