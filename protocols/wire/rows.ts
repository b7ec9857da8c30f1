/**
 * Rows of numbers as bytes.
 * - f32: 4 bytes a number, exact.
 * - f16: IEEE 754 binary16, 2 bytes a number, clamped to its range so that no infinity is born on the wire.
 * - i8: blocks of 32 numbers, one f32 scale each (largest magnitude / 127), all scales first, then all codes.
 */
import { InvalidMessageError } from './errors.ts'

export type RowType = 'f32' | 'f16' | 'i8'

/** Codes on the wire. */
export const ROW_TYPES = Object.freeze(['f32', 'f16', 'i8'] as const)

/** Numbers that share a scale in `i8`. */
const I8_BLOCK = 32
/** Largest finite binary16. */
const F16_MAX = 65504

/** Bytes that `count` numbers in rows of `width` take. */
export function rowBytes(type: RowType, rows: number, width: number): number {
  switch (type) {
    case 'f32':
      return rows * width * 4
    case 'f16':
      return rows * width * 2
    case 'i8':
      return rows * (Math.ceil(width / I8_BLOCK) * 4 + width)
  }
}

/** [rows, width] numbers to bytes. */
export function encodeRows(type: RowType, data: Float32Array, rows: number, width: number): Uint8Array {
  switch (type) {
    case 'f32': {
      // A copy: the caller's buffer is reused while the frame may still wait for the socket.
      const out = new Float32Array(data.subarray(0, rows * width))
      return new Uint8Array(out.buffer)
    }
    case 'f16': {
      const count = rows * width
      const out = new Float16Array(count)
      for (let i = 0; i < count; i++) {
        const value = data[i]!
        out[i] = value > F16_MAX ? F16_MAX : value < -F16_MAX ? -F16_MAX : value
      }
      return new Uint8Array(out.buffer)
    }
    case 'i8':
      return encodeI8(data, rows, width)
  }
}

/** Bytes to [rows, width] numbers, in memory of their own. Throws `InvalidMessageError` when the byte count does not fit. */
export function decodeRows(type: RowType, bytes: Uint8Array, rows: number, width: number): Float32Array {
  const want = rowBytes(type, rows, width)
  if (bytes.length !== want) throw new InvalidMessageError(`${rows} rows of ${width} ${type} need ${want} bytes, not ${bytes.length}`)
  switch (type) {
    case 'f32':
      return new Float32Array(aligned(bytes))
    case 'f16':
      return new Float32Array(new Float16Array(lentAligned(bytes), 0, rows * width))
    case 'i8':
      return decodeI8(bytes, rows, width)
  }
}

function aligned(bytes: Uint8Array): ArrayBuffer {
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length) as ArrayBuffer
}

const scratch = new Uint8Array(64 * 1024)

/** The bytes at the beginning of memory that the next call may overwrite. */
function lentAligned(bytes: Uint8Array): ArrayBuffer {
  if (bytes.length > scratch.length) return aligned(bytes)
  scratch.set(bytes)
  return scratch.buffer
}

function encodeI8(data: Float32Array, rows: number, width: number): Uint8Array {
  const blocks = Math.ceil(width / I8_BLOCK)
  const scales = new Float32Array(rows * blocks)
  const out = new Uint8Array(rowBytes('i8', rows, width))
  const codes = new Int8Array(out.buffer, scales.byteLength)
  for (let row = 0; row < rows; row++) {
    for (let block = 0; block < blocks; block++) {
      const from = row * width + block * I8_BLOCK
      const to = Math.min(from + I8_BLOCK, (row + 1) * width)
      let largest = 0
      for (let i = from; i < to; i++) largest = Math.max(largest, Math.abs(data[i]!))
      const scale = Math.fround(largest / 127)
      scales[row * blocks + block] = scale
      const inverse = scale === 0 ? 0 : 1 / scale
      for (let i = from; i < to; i++) codes[i] = Math.max(-127, Math.min(127, Math.round(data[i]! * inverse)))
    }
  }
  out.set(new Uint8Array(scales.buffer))
  return out
}

function decodeI8(bytes: Uint8Array, rows: number, width: number): Float32Array {
  const blocks = Math.ceil(width / I8_BLOCK)
  const buffer = lentAligned(bytes)
  const scales = new Float32Array(buffer, 0, rows * blocks)
  const codes = new Int8Array(buffer, scales.byteLength)
  const out = new Float32Array(rows * width)
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < width; i++) {
      const scale = scales[row * blocks + Math.floor(i / I8_BLOCK)]!
      out[row * width + i] = codes[row * width + i]! * scale
    }
  }
  return out
}
