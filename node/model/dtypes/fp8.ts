/**
 * 8-bit floating point numbers of the kind e4m3fn (Micikevicius et al. 2022, "FP8 Formats for Deep Learning"): sign, 4 exponent bits
 * with bias 7, 3 mantissa bits; no infinities, 0x7f and 0xff are NaN. DeepSeek's checkpoints keep one f32 factor for each block of
 * a weight [rows, columns] beside it, in `<name>_scale_inv` [ceil(rows / block), ceil(columns / block)].
 */

const EXPONENT_BIAS = 7
const MANTISSA_STEPS = 8
const TABLE = Float32Array.from({ length: 256 }, (_, code) => decodeOne(code))

function decodeOne(code: number): number {
  const sign = code & 0x80 ? -1 : 1
  if ((code & 0x7f) === 0x7f) return Number.NaN
  const exponent = (code >> 3) & 15
  const mantissa = code & 7
  const value =
    exponent === 0
      ? (mantissa / MANTISSA_STEPS) * 2 ** (1 - EXPONENT_BIAS)
      : (1 + mantissa / MANTISSA_STEPS) * 2 ** (exponent - EXPONENT_BIAS)
  return sign * value
}

/** Writes the number of each byte of `codes` to `into`, of the same length. Throws `RangeError` when the lengths differ. */
export function decodeFp8E4m3(codes: Uint8Array, into: Float32Array): void {
  if (codes.length !== into.length) throw new RangeError(`${codes.length} codes do not fill ${into.length} numbers`)
  for (let i = 0; i < codes.length; i++) into[i] = TABLE[codes[i]!]!
}
