import { allFinite } from './codec.ts'
import type { Codec } from './codec.ts'

const BF16_EXPONENT = 0x7f80

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

/** The upper half of a float32. */
export const BF16: Codec = {
  numbers: 1,
  bytes: 2,
  decode: (bytes, at, count, into, to) => {
    const halves = new Uint16Array(bytes.buffer, bytes.byteOffset + at, count)
    const words = new Uint32Array(into.buffer, into.byteOffset + to * 4, count)
    let finite = true
    for (let i = 0; i < count; i++) {
      const half = halves[i]!
      if ((half & BF16_EXPONENT) === BF16_EXPONENT) finite = false
      words[i] = half << 16
    }
    return finite
  },
}
