import { ModelError } from '../../errors.ts'

/** Typed reading of a GGUF file's metadata; every complaint is a `ModelError` naming file and key. */
export class GgufMetadata {
  readonly path: string
  readonly #values: Readonly<Record<string, unknown>>

  constructor(path: string, values: Readonly<Record<string, unknown>>) {
    this.path = path
    this.#values = values
  }

  text(key: string): string | undefined {
    return this.#typed(key, 'a text', isText)
  }

  number(key: string): number | undefined {
    const value = this.#typed(key, 'a number', isNumber)
    return value === undefined ? undefined : shortest(value)
  }

  flag(key: string): boolean | undefined {
    return this.#typed(key, 'true or false', (value) => typeof value === 'boolean')
  }

  texts(key: string): readonly string[] | undefined {
    return this.#typed(key, 'a list of texts', (value) => Array.isArray(value) && value.every(isText))
  }

  numbers(key: string): readonly number[] | undefined {
    return this.#typed(key, 'a list of numbers', (value) => Array.isArray(value) && value.every(isNumber))
  }

  /** What `value` is when it is there. Throws `ModelError` when it is not. */
  required<T>(key: string, value: T | undefined): T {
    if (value === undefined) throw new ModelError(`${this.path}: ${key} is missing from the metadata: get a newer conversion of the model`)
    return value
  }

  #typed<T>(key: string, expected: string, isValid: (value: unknown) => value is T): T | undefined {
    const value = Object.hasOwn(this.#values, key) ? plain(this.#values[key]) : undefined
    if (value === undefined) return undefined
    if (!isValid(value)) {
      const found = typeof value === 'string' ? 'a text' : JSON.stringify(value)?.slice(0, 60)
      throw new ModelError(`${this.path}: ${key} is ${found}; expected ${expected}: get the file again`)
    }
    return value
  }
}

/** The shortest decimal number that is the same f32: files keep f32, and 1e-5 was meant where 0.000009999999747378752 stands. */
function shortest(value: number): number {
  if (Number.isInteger(value) || Math.fround(value) !== value) return value
  for (let digits = 1; digits < 9; digits++) {
    const short = Number(value.toPrecision(digits))
    if (Math.fround(short) === value) return short
  }
  return value
}

function isText(value: unknown): value is string {
  return typeof value === 'string'
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value)
}

/** GGUF's whole numbers of 64 bits are read as bigint. */
function plain(value: unknown): unknown {
  if (typeof value === 'bigint') return Number(value)
  return Array.isArray(value) && typeof value[0] === 'bigint' ? value.map(Number) : value
}
