/**
 * llama.cpp's block types (ggml-quants.c): blocks of 32 numbers with one f16 factor, and with one f16 offset where the name ends in 1.
 * Checked bit by bit against the dequantisers of its gguf-py. The K types are in ggml-k.ts.
 */

import { HALF, halfAt } from './half.ts'
import type { Codec } from './codec.ts'

const BLOCK = 32
const E8M0_NAN = 255

export const Q8_0: Codec = {
  numbers: BLOCK,
  bytes: 34,
  decode: (bytes, at, blocks, into, to) => {
    let finite = true
    for (let b = 0; b < blocks; b++, at += 34) {
      const d = HALF[halfAt(bytes, at)]!
      if (!Number.isFinite(d)) finite = false
      for (let i = 0; i < BLOCK; i++) into[to++] = d * ((bytes[at + 2 + i]! << 24) >> 24)
    }
    return finite
  },
}

export const Q4_0: Codec = {
  numbers: BLOCK,
  bytes: 18,
  decode: (bytes, at, blocks, into, to) => {
    let finite = true
    for (let b = 0; b < blocks; b++, at += 18, to += BLOCK) {
      const d = HALF[halfAt(bytes, at)]!
      if (!Number.isFinite(d)) finite = false
      for (let i = 0; i < 16; i++) {
        const byte = bytes[at + 2 + i]!
        into[to + i] = d * ((byte & 15) - 8)
        into[to + i + 16] = d * ((byte >> 4) - 8)
      }
    }
    return finite
  },
}

export const Q4_1: Codec = {
  numbers: BLOCK,
  bytes: 20,
  decode: (bytes, at, blocks, into, to) => {
    let finite = true
    for (let b = 0; b < blocks; b++, at += 20, to += BLOCK) {
      const d = HALF[halfAt(bytes, at)]!
      const m = HALF[halfAt(bytes, at + 2)]!
      if (!Number.isFinite(d + m)) finite = false
      for (let i = 0; i < 16; i++) {
        const byte = bytes[at + 4 + i]!
        into[to + i] = d * (byte & 15) + m
        into[to + i + 16] = d * (byte >> 4) + m
      }
    }
    return finite
  },
}

export const Q5_0: Codec = {
  numbers: BLOCK,
  bytes: 22,
  decode: (bytes, at, blocks, into, to) => {
    let finite = true
    for (let b = 0; b < blocks; b++, at += 22, to += BLOCK) {
      const d = HALF[halfAt(bytes, at)]!
      if (!Number.isFinite(d)) finite = false
      const high = wordAt(bytes, at + 2)
      for (let i = 0; i < 16; i++) {
        const byte = bytes[at + 6 + i]!
        into[to + i] = d * (((byte & 15) | (((high >>> i) & 1) << 4)) - 16)
        into[to + i + 16] = d * (((byte >> 4) | (((high >>> (i + 16)) & 1) << 4)) - 16)
      }
    }
    return finite
  },
}

export const Q5_1: Codec = {
  numbers: BLOCK,
  bytes: 24,
  decode: (bytes, at, blocks, into, to) => {
    let finite = true
    for (let b = 0; b < blocks; b++, at += 24, to += BLOCK) {
      const d = HALF[halfAt(bytes, at)]!
      const m = HALF[halfAt(bytes, at + 2)]!
      if (!Number.isFinite(d + m)) finite = false
      const high = wordAt(bytes, at + 4)
      for (let i = 0; i < 16; i++) {
        const byte = bytes[at + 8 + i]!
        into[to + i] = d * ((byte & 15) | (((high >>> i) & 1) << 4)) + m
        into[to + i + 16] = d * ((byte >> 4) | (((high >>> (i + 16)) & 1) << 4)) + m
      }
    }
    return finite
  },
}

/** Twice e2m1, for which the scale is halved. */
const E2M1_DOUBLED = Int8Array.of(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)

/** MXFP4 with the scale before each block; unlike the Hugging Face form, the halves of a block lie in the halves of its bytes. */
export const GGML_MXFP4: Codec = {
  numbers: BLOCK,
  bytes: 17,
  decode: (bytes, at, blocks, into, to) => {
    let finite = true
    for (let b = 0; b < blocks; b++, at += 17, to += BLOCK) {
      if (bytes[at] === E8M0_NAN) finite = false
      const d = 2 ** (bytes[at]! - 128)
      for (let i = 0; i < 16; i++) {
        const byte = bytes[at + 1 + i]!
        into[to + i] = d * E2M1_DOUBLED[byte & 15]!
        into[to + i + 16] = d * E2M1_DOUBLED[byte >> 4]!
      }
    }
    return finite
  },
}

function wordAt(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8) | (bytes[at + 2]! << 16) | (bytes[at + 3]! << 24)
}
