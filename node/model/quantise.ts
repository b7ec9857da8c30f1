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
/** How much finer than the grid that ends at the largest weight those of 4 bits are that are tried. */
const FINER_GRIDS = [1, 1.16, 1.33]
export type Bits = 4 | 8

export interface Quantised {
  readonly codes: Uint8Array<ArrayBuffer>
  readonly scales: Float32Array<ArrayBuffer>
}

/**
 * Quantises `weights` [rows, inputs], row-major. The last block of a row is padded with zeros where `block` does not divide `inputs`.
 * The error of a weight is at most half its block's scale in 8 bits; in 4 it may be some scales for the largest weights of a block.
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
      if (bits === 4) scales[index] = encode4(weights, from, to, scale, codes, index * blockBytes, blockBytes)
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
 * Writes the codes and returns the scale that fits them best: of the grids in which the largest weight lies at -8, or somewhat beyond the
 * end, that which leaves the least squared error with the best scale for its codes (least squares). Where few weights are large, a finer
 * grid for the others is worth more than the exact largest.
 *
 * Adding the zero point and a half before cutting off rounds to nearest, ties upwards. Cut by `| 0`, which is half as fast again as
 * `Math.trunc`: packing spends most of its time here.
 */
function encode4(weights: Float32Array, from: number, to: number, scale: number, codes: Uint8Array, at: number, bytes: number): number {
  const end = at + bytes
  if (scale === 0) {
    codes.fill(ZERO_PAIR, at, end)
    return 0
  }
  let inverse = 0
  let best = 0
  let bestScale = scale
  for (const finer of FINER_GRIDS) {
    const candidate = finer / scale
    let products = 0
    let squares = 0
    for (let i = from; i < to; i++) {
      const weight = weights[i]!
      const cut = (weight * candidate + 8.5) | 0
      const code = (cut > 15 ? 15 : cut < 0 ? 0 : cut) - 8
      products += code * weight
      squares += code * code
    }
    // What least squares takes off the squared error.
    const gain = (products * products) / squares
    if (gain > best) {
      best = gain
      inverse = candidate
      bestScale = products / squares
    }
  }
  let i = from
  for (; i + 1 < to; i += 2) {
    const low = (weights[i]! * inverse + 8.5) | 0
    const high = (weights[i + 1]! * inverse + 8.5) | 0
    codes[at++] = (low > 15 ? 15 : low < 0 ? 0 : low) | ((high > 15 ? 15 : high < 0 ? 0 : high) << 4)
  }
  if (i < to) {
    const last = (weights[i]! * inverse + 8.5) | 0
    codes[at++] = (last > 15 ? 15 : last < 0 ? 0 : last) | ZERO_HIGH
  }
  codes.fill(ZERO_PAIR, at, end)
  return Math.fround(bestScale)
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
