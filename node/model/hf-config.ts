import { ModelError } from '../errors.ts'

/** Typed, bounded reading of a Hugging Face `config.json`; every complaint is a `ModelError` naming file and field. */
export class HfConfig {
  readonly #fields: Record<string, unknown>
  readonly #path: string

  constructor(fields: Record<string, unknown>, path: string) {
    this.#fields = fields
    this.#path = path
  }

  /** A whole number in 1..max; a missing or null field takes `fallback`, or is an error without one. */
  count(field: string, max: number, fallback?: number): number {
    const value = this.#fields[field] ?? fallback
    if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 1 || value > max) {
      throw this.#wrong(field, `a whole number from 1 to ${max}`)
    }
    return value
  }

  positive(field: string, fallback?: number): number {
    const value = this.#fields[field] ?? fallback
    if (typeof value !== 'number' || !(value > 0) || !Number.isFinite(value)) throw this.#wrong(field, 'a number above 0')
    return value
  }

  flag(field: string, fallback: boolean): boolean {
    const value = this.#fields[field] ?? fallback
    if (typeof value !== 'boolean') throw this.#wrong(field, 'true or false')
    return value
  }

  /** The field as it stands; undefined when missing or null. */
  raw(field: string): unknown {
    return this.#fields[field] ?? undefined
  }

  /** Refuses the checkpoint for something that this version does not run. */
  unsupported(field: string, why: string): ModelError {
    return new ModelError(`${this.#path}: ${field} ${JSON.stringify(this.#fields[field]) ?? ''} is not supported: ${why}`)
  }

  #wrong(field: string, expected: string): ModelError {
    const value = this.#fields[field]
    const found = value === undefined ? 'is missing' : `is ${JSON.stringify(value)?.slice(0, 80)}`
    return new ModelError(`${this.#path}: ${field} ${found}; expected ${expected}`)
  }
}
