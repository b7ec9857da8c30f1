import { InvalidMessageError, LimitExceededError } from '../wire/errors.ts'

const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
const encoder = new TextEncoder()

/** Collects the fields of one message; little-endian, varints as in LEB128. */
export class ByteWriter {
  #bytes = new Uint8Array(256)
  #view = new DataView(this.#bytes.buffer)
  #length = 0

  u8(value: number): this {
    this.#reserve(1)
    this.#bytes[this.#length++] = value
    return this
  }

  u32(value: number): this {
    this.#reserve(4)
    this.#view.setUint32(this.#length, value, true)
    this.#length += 4
    return this
  }

  /** A whole number up to 2^53 - 1. */
  u64(value: number): this {
    this.#reserve(8)
    this.#view.setBigUint64(this.#length, BigInt(value), true)
    this.#length += 8
    return this
  }

  /** A whole number up to 2^53 - 1, in 1 to 8 bytes. */
  varint(value: number): this {
    if (!Number.isSafeInteger(value) || value < 0) throw new LimitExceededError(`${value} is not a whole number from 0 to 2^53 - 1`)
    this.#reserve(8)
    let rest = value
    while (rest >= 0x80) {
      this.#bytes[this.#length++] = (rest % 0x80) + 0x80
      rest = Math.floor(rest / 0x80)
    }
    this.#bytes[this.#length++] = rest
    return this
  }

  raw(bytes: Uint8Array): this {
    this.#reserve(bytes.length)
    this.#bytes.set(bytes, this.#length)
    this.#length += bytes.length
    return this
  }

  /** A string with its length in bytes before it. */
  text(value: string): this {
    const bytes = encoder.encode(value)
    return this.varint(bytes.length).raw(bytes)
  }

  finish(): Uint8Array {
    return this.#bytes.slice(0, this.#length)
  }

  #reserve(bytes: number): void {
    if (this.#length + bytes <= this.#bytes.length) return
    const grown = new Uint8Array(Math.max(this.#bytes.length * 2, this.#length + bytes))
    grown.set(this.#bytes.subarray(0, this.#length))
    this.#bytes = grown
    this.#view = new DataView(grown.buffer)
  }
}

/** Reads what {@link ByteWriter} writes; every method throws `InvalidMessageError` where the bytes end too soon or say something impossible. */
export class ByteReader {
  readonly #bytes: Uint8Array
  readonly #view: DataView
  #at = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length)
  }

  get at(): number {
    return this.#at
  }

  get left(): number {
    return this.#bytes.length - this.#at
  }

  u8(): number {
    return this.#bytes[this.#take(1)]!
  }

  u32(): number {
    return this.#view.getUint32(this.#take(4), true)
  }

  u64(): number {
    const value = this.#view.getBigUint64(this.#take(8), true)
    if (value > Number.MAX_SAFE_INTEGER) throw new InvalidMessageError(`${value} exceeds 2^53 - 1`)
    return Number(value)
  }

  varint(): number {
    let value = 0
    let scale = 1
    for (let i = 0; i < 8; i++) {
      const byte = this.#bytes[this.#take(1)]!
      value += (byte % 0x80) * scale
      if (byte < 0x80) {
        // One number, one encoding: signed bytes must not have twins.
        if (byte === 0 && i > 0) throw new InvalidMessageError('a varint is longer than it need be')
        if (value > Number.MAX_SAFE_INTEGER) throw new InvalidMessageError(`${value} exceeds 2^53 - 1`)
        return value
      }
      scale *= 0x80
    }
    throw new InvalidMessageError('a varint is longer than 8 bytes')
  }

  /** A view on the next `length` bytes, not a copy. */
  raw(length: number): Uint8Array {
    const at = this.#take(length)
    return this.#bytes.subarray(at, at + length)
  }

  text(maxBytes: number): string {
    const length = this.varint()
    if (length > maxBytes) throw new InvalidMessageError(`a string of ${length} bytes exceeds its ${maxBytes}`)
    try {
      return decoder.decode(this.raw(length))
    } catch (error) {
      if (error instanceof InvalidMessageError) throw error
      throw new InvalidMessageError('a string is not UTF-8')
    }
  }

  #take(bytes: number): number {
    if (bytes > this.left) throw new InvalidMessageError(`${bytes} bytes wanted at ${this.#at}, ${this.left} left`)
    const at = this.#at
    this.#at += bytes
    return at
  }
}
