import type { BlockScales } from './source-tensor.ts'

const E8M0_BIAS = 127
const E8M0_NAN = 255

/** The factors of some stored rows, decoded. */
export class BlockFactors {
  readonly #scales: BlockScales
  readonly #perRow: number
  readonly #first: number
  readonly #values: Float32Array

  /** `read(offset, count)`: bytes of the scales' file; called once. */
  constructor(scales: BlockScales, firstRow: number, lastRow: number, read: (offset: number, count: number) => Uint8Array<ArrayBuffer>) {
    this.#scales = scales
    this.#perRow = Math.ceil(scales.columns / scales.blockColumns)
    this.#first = Math.floor(firstRow / scales.blockRows)
    const count = (Math.floor(lastRow / scales.blockRows) - this.#first + 1) * this.#perRow
    const width = { F32: 4, BF16: 2, E8M0: 1 }[scales.dtype]
    this.#values = decode(scales.dtype, read(scales.offset + this.#first * this.#perRow * width, count * width), count)
  }

  /** Scales numbers of one stored row, which begin at `column`, in place. Returns whether every factor is finite. */
  apply(numbers: Float32Array, row: number, column: number): boolean {
    const { blockRows, blockColumns } = this.#scales
    const base = (Math.floor(row / blockRows) - this.#first) * this.#perRow
    let at = 0
    while (at < numbers.length) {
      const block = Math.floor((column + at) / blockColumns)
      const end = Math.min(numbers.length, (block + 1) * blockColumns - column)
      const factor = this.#values[base + block]!
      if (!Number.isFinite(factor)) return false
      for (; at < end; at++) numbers[at]! *= factor
    }
    return true
  }
}

function decode(dtype: BlockScales['dtype'], bytes: Uint8Array<ArrayBuffer>, count: number): Float32Array {
  if (dtype === 'F32') return new Float32Array(bytes.buffer, bytes.byteOffset, count).slice()
  if (dtype === 'BF16') {
    const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, count)
    return new Float32Array(Uint32Array.from(halves, (half) => half << 16).buffer)
  }
  return Float32Array.from({ length: count }, (_, i) => (bytes[i] === E8M0_NAN ? Number.NaN : 2 ** (bytes[i]! - E8M0_BIAS)))
}
