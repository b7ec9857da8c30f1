/**
 * Symmetric block quantisation in the layout of com.microsoft.MatMulNBits: codes [rows, blocks, block*bits/8] with a zero point
 * of 8 or 128 and, for 4 bits, the even weight in the low half of each byte; scales [rows, blocks].
 */

/** Blocks of nothing larger become zero: their scale would be too small to be held exactly, or at all. */
const MIN_MAGNITUDE = 2 ** -100
export type Bits = 4 | 8

export interface Quantised {
  readonly codes: Uint8Array<ArrayBuffer>
  readonly scales: Float32Array<ArrayBuffer>
}

/**
 * Quantises `weights` [rows, inputs], row-major. The last block of a row is padded with zeros where `block` does not divide `inputs`.
 * The error of a weight is at most half its block's scale (q8) or one scale (q4, at the end opposite to the block's largest weight).
 */
export function quantise(weights: Float32Array, rows: number, inputs: number, bits: Bits, block: number): Quantised {
  const blocks = Math.ceil(inputs / block)
  const blockBytes = (block * bits) / 8
  const codes = new Uint8Array(rows * blocks * blockBytes)
  const scales = new Float32Array(rows * blocks)
  for (let row = 0; row < rows; row++) {
    for (let b = 0; b < blocks; b++) {
      const from = row * inputs + b * block
      const to = Math.min(from + block, (row + 1) * inputs)
      const index = row * blocks + b
      const scale = blockScale(weights, from, to, bits)
      scales[index] = scale
      if (bits === 4) encode4(weights, from, to, scale, codes, index * blockBytes, blockBytes)
      else encode8(weights, from, to, scale, codes, index * blockBytes, blockBytes)
    }
  }
  return { codes, scales }
}

/** 8 bits: the largest weight maps to ±127. 4 bits: it maps to -8, whatever its sign, which uses one more level than ±7. */
function blockScale(weights: Float32Array, from: number, to: number, bits: Bits): number {
  let largest = 0
  let size = 0
  for (let i = from; i < to; i++) {
    const weight = weights[i]!
    const magnitude = Math.abs(weight)
    if (magnitude > size) {
      size = magnitude
      largest = weight
    }
  }
  if (size < MIN_MAGNITUDE) return 0
  return Math.fround(bits === 4 ? largest / -8 : size / 127)
}

/** Adding the zero point and a half before cutting off rounds to nearest, ties upwards: the sum is never negative. */
function encode4(weights: Float32Array, from: number, to: number, scale: number, codes: Uint8Array, at: number, bytes: number): void {
  const inverse = scale === 0 ? 0 : 1 / scale
  for (let i = 0; i < bytes; i++) {
    const even = from + 2 * i
    const low = even < to ? Math.trunc(weights[even]! * inverse + 8.5) : 8
    const high = even + 1 < to ? Math.trunc(weights[even + 1]! * inverse + 8.5) : 8
    codes[at + i] = Math.min(low, 15) | (Math.min(high, 15) << 4)
  }
}

function encode8(weights: Float32Array, from: number, to: number, scale: number, codes: Uint8Array, at: number, bytes: number): void {
  const inverse = scale === 0 ? 0 : 1 / scale
  for (let i = 0; i < bytes; i++) codes[at + i] = from + i < to ? Math.min(Math.trunc(weights[from + i]! * inverse + 128.5), 255) : 128
}
