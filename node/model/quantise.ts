/**
 * Symmetric block quantisation in the layout of com.microsoft.MatMulNBits: codes [rows, blocks, block*bits/8] with a zero point
 * of 8 or 128 and, for 4 bits, the even weight in the low half of each byte; scales [rows, blocks].
 */

/** Blocks of nothing larger become zero: their scale would be too small to be held exactly, or at all. */
const MIN_MAGNITUDE = 2 ** -100
/** The bits of two finite numbers without their signs compare as their magnitudes do. */
const WITHOUT_SIGN = 0x7fff_ffff
const ZERO_HIGH = 0x80
const ZERO_PAIR = 0x88
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
  const magnitudes = new Int32Array(weights.buffer, weights.byteOffset, weights.length)
  for (let row = 0; row < rows; row++) {
    for (let b = 0; b < blocks; b++) {
      const from = row * inputs + b * block
      const to = Math.min(from + block, (row + 1) * inputs)
      const index = row * blocks + b
      const scale = blockScale(weights, magnitudes, from, to, bits)
      scales[index] = scale
      if (bits === 4) encode4(weights, from, to, scale, codes, index * blockBytes, blockBytes)
      else encode8(weights, from, to, scale, codes, index * blockBytes, blockBytes)
    }
  }
  return { codes, scales }
}

/** 8 bits: the largest weight maps to ±127. 4 bits: it maps to -8, whatever its sign, which uses one more level than ±7. */
function blockScale(weights: Float32Array, magnitudes: Int32Array, from: number, to: number, bits: Bits): number {
  let largest = from
  let size = 0
  for (let i = from; i < to; i++) {
    const magnitude = magnitudes[i]! & WITHOUT_SIGN
    if (magnitude > size) {
      size = magnitude
      largest = i
    }
  }
  const weight = weights[largest]!
  if (Math.abs(weight) < MIN_MAGNITUDE) return 0
  return Math.fround(bits === 4 ? weight / -8 : Math.abs(weight) / 127)
}

/**
 * Adding the zero point and a half before cutting off rounds to nearest, ties upwards: the sum is never negative. Cut by `| 0`, which is
 * half as fast again as `Math.trunc`: packing spends most of its time here.
 */
function encode4(weights: Float32Array, from: number, to: number, scale: number, codes: Uint8Array, at: number, bytes: number): void {
  const inverse = scale === 0 ? 0 : 1 / scale
  const end = at + bytes
  let i = from
  for (; i + 1 < to; i += 2) {
    const low = (weights[i]! * inverse + 8.5) | 0
    const high = (weights[i + 1]! * inverse + 8.5) | 0
    codes[at++] = (low > 15 ? 15 : low) | ((high > 15 ? 15 : high) << 4)
  }
  if (i < to) codes[at++] = Math.min((weights[i]! * inverse + 8.5) | 0, 15) | ZERO_HIGH
  codes.fill(ZERO_PAIR, at, end)
}

function encode8(weights: Float32Array, from: number, to: number, scale: number, codes: Uint8Array, at: number, bytes: number): void {
  const inverse = scale === 0 ? 0 : 1 / scale
  const end = at + bytes
  for (let i = from; i < to; i++) {
    const code = (weights[i]! * inverse + 128.5) | 0
    codes[at++] = code > 255 ? 255 : code
  }
  codes.fill(128, at, end)
}
