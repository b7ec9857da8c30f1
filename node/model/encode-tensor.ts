import { quantise } from './quantise.ts'
import type { Bits } from './quantise.ts'
import { matrixOf } from './source-tensor.ts'
import type { SourceTensor } from './source-tensor.ts'
import type { TensorReader } from './tensor-reader.ts'

export const DEFAULTS = Object.freeze({
  /** Numbers per chunk: bounds memory, and keeps waits between chunks short. */
  chunkNumbers: 2 * 2 ** 20,
  /** Numbers held at once for transposing, which must have all rows of a strip of columns. */
  stripNumbers: 16 * 2 ** 20,
})
/** Rows transposed together, so that a cache line read is used whole. */
const TILE_ROWS = 32
const MAX_F16 = 65504

/** How one tensor of a blob comes from the checkpoint; plain data. */
export type PartSpec =
  /** The sources' rows, one source after the other. */
  | { readonly encode: 'rows'; readonly type: 'f32' | 'f16'; readonly sources: readonly SourceTensor[] }
  /** A [outputs, inputs] weight as [inputs, outputs]. */
  | { readonly encode: 'transposed'; readonly type: 'f32' | 'f16'; readonly source: SourceTensor }
  | { readonly encode: 'codes'; readonly bits: Bits; readonly block: number; readonly source: SourceTensor }
  /** Of the codes before it. */
  | { readonly encode: 'scales' }

/** Where a part's numbers are. */
export function sourcesOf(part: PartSpec): readonly SourceTensor[] {
  if (part.encode === 'scales') return []
  return part.encode === 'rows' ? part.sources : [part.source]
}

/** Bytes of a part, and how many numbers of the checkpoint were read for it since the last ones. */
export interface EncodedChunk {
  /** Not touched again. */
  readonly bytes: Uint8Array
  readonly numbers: number
}

/** Encodes the parts of a blob one after the other. Throws `ModelError` when a weight can't be read or is not finite. */
export class PartEncoder {
  readonly #reader: TensorReader
  readonly #limits: Readonly<Record<keyof typeof DEFAULTS, number>>
  #numbers = new Float32Array(0)
  #scales: Float32Array[] = []

  /** `limits` default to {@link DEFAULTS}. */
  constructor(reader: TensorReader, limits: Partial<Record<keyof typeof DEFAULTS, number>> = {}) {
    this.#reader = reader
    this.#limits = { ...DEFAULTS, ...limits }
  }

  encode(part: PartSpec): Generator<EncodedChunk> {
    if (part.encode === 'rows') return this.#rows(part.sources, part.type)
    if (part.encode === 'transposed') return this.#transposed(part.source, part.type)
    if (part.encode === 'codes') return this.#codes(part.source, part.bits, part.block)
    return this.#takeScales()
  }

  *#rows(sources: readonly SourceTensor[], type: 'f32' | 'f16'): Generator<EncodedChunk> {
    for (const source of sources) {
      for (const { numbers } of this.#rowChunks(source)) yield { bytes: asBytes(numbers, type), numbers: numbers.length }
    }
  }

  *#codes(source: SourceTensor, bits: Bits, block: number): Generator<EncodedChunk> {
    const { columns } = matrixOf(source)
    this.#scales = []
    for (const { rows, numbers } of this.#rowChunks(source)) {
      const { codes, scales } = quantise(numbers, rows, columns, bits, block)
      this.#scales.push(scales)
      yield { bytes: codes, numbers: numbers.length }
    }
  }

  *#takeScales(): Generator<EncodedChunk> {
    for (const scales of this.#scales.splice(0)) yield { bytes: asBytes(scales, 'f32'), numbers: 0 }
  }

  *#rowChunks(source: SourceTensor): Generator<{ rows: number; numbers: Float32Array }> {
    const { rows, columns } = matrixOf(source)
    const perChunk = Math.max(1, Math.floor(this.#limits.chunkNumbers / columns))
    for (let row = 0; row < rows; row += perChunk) {
      const count = Math.min(perChunk, rows - row)
      const numbers = this.#buffer(count * columns)
      this.#reader.read(source, { row, rows: count, column: 0, columns }, numbers)
      yield { rows: count, numbers }
    }
  }

  *#transposed(source: SourceTensor, type: 'f32' | 'f16'): Generator<EncodedChunk> {
    const { rows, columns } = matrixOf(source)
    const stripWidth = Math.max(1, Math.min(columns, Math.floor(this.#limits.stripNumbers / rows)))
    const outWidth = Math.max(1, Math.min(stripWidth, Math.floor(this.#limits.chunkNumbers / rows)))
    const out = new Float32Array(outWidth * rows)
    for (let column = 0; column < columns; column += stripWidth) {
      const width = Math.min(stripWidth, columns - column)
      const strip = this.#buffer(width * rows)
      this.#reader.read(source, { row: 0, rows, column, columns: width }, strip)
      for (let from = 0; from < width; from += outWidth) {
        const count = Math.min(outWidth, width - from)
        for (let top = 0; top < rows; top += TILE_ROWS) {
          const end = Math.min(rows, top + TILE_ROWS)
          for (let c = 0; c < count; c++) for (let r = top; r < end; r++) out[c * rows + r] = strip[r * width + from + c]!
        }
        yield { bytes: asBytes(out.subarray(0, count * rows), type), numbers: count * rows }
      }
    }
  }

  #buffer(length: number): Float32Array {
    if (this.#numbers.length < length) this.#numbers = new Float32Array(length)
    return this.#numbers.subarray(0, length)
  }
}

/** A copy. */
function asBytes(numbers: Float32Array, type: 'f32' | 'f16'): Uint8Array {
  const stored = type === 'f32' ? numbers.slice() : toF16(numbers)
  return new Uint8Array(stored.buffer, stored.byteOffset, stored.byteLength)
}

/** Rounded to nearest even; what is too large becomes the largest finite number. */
function toF16(numbers: Float32Array): Float16Array {
  for (let i = 0; i < numbers.length; i++) {
    const value = numbers[i]!
    if (value > MAX_F16) numbers[i] = MAX_F16
    else if (value < -MAX_F16) numbers[i] = -MAX_F16
  }
  return new Float16Array(numbers)
}
