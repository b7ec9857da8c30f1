import { allFinite } from './codec.ts'
import type { Codec } from './codec.ts'

/** Of a pair: the exponents, one in the last place of each, and where adding it carries out of exponents that are all ones (not finite). */
const BF16_EXPONENTS = 0x7f80_7f80
const BF16_EXPONENTS_ONE = 0x0080_0080
const BF16_CARRIES = 0x8000_8000
const BF16_UPPER = 0xffff_0000

export const F32: Codec = {
  numbers: 1,
  bytes: 4,
  decode: (bytes, at, count, into, to) => {
    into.set(new Float32Array(bytes.buffer, bytes.byteOffset + at, count), to)
    return allFinite(into, to, to + count)
  },
}

export const F16: Codec = {
  numbers: 1,
  bytes: 2,
  decode: (bytes, at, count, into, to) => {
    into.set(new Float16Array(bytes.buffer, bytes.byteOffset + at, count), to)
    return allFinite(into, to, to + count)
  },
}

/** The upper half of a float32. Decoded in pairs, which takes two thirds of the time. */
export const BF16: Codec = {
  numbers: 1,
  bytes: 2,
  decode: (bytes, at, count, into, to) => {
    const pairs = new Int32Array(bytes.buffer, bytes.byteOffset + at, count >> 1)
    const words = new Int32Array(into.buffer, into.byteOffset + to * 4, count)
    let carries = 0
    for (let i = 0; i < pairs.length; i++) {
      const pair = pairs[i]!
      carries |= (pair & BF16_EXPONENTS) + BF16_EXPONENTS_ONE
      words[2 * i] = pair << 16
      words[2 * i + 1] = pair & BF16_UPPER
    }
    if (count % 2 === 1) {
      const last = bytes[at + 2 * count - 2]! | (bytes[at + 2 * count - 1]! << 8)
      carries |= (last & BF16_EXPONENTS) + BF16_EXPONENTS_ONE
      words[count - 1] = last << 16
    }
    return (carries & BF16_CARRIES) === 0
  },
}
