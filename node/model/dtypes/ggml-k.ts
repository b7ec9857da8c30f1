/**
 * llama.cpp's K types (ggml-quants.c): blocks of 256 numbers in sub-blocks with small whole factors. Q4_K and Q5_K: eight sub-blocks of 32,
 * each with a factor and an offset of 6 bits; Q6_K: sixteen of 16, each with a factor of 8 bits.
 */
import type { Codec } from './codec.ts'
import { HALF, halfAt } from './half.ts'

const BLOCK = 256
const SUB_BLOCKS = 8

/** Factors (0-7) and offsets (8-15) of the sub-blocks, from their twelve bytes. */
const smalls = new Uint8Array(2 * SUB_BLOCKS)
function unpackSmalls(bytes: Uint8Array, at: number): void {
  for (let i = 0; i < 4; i++) {
    const d = bytes[at + i]!
    const m = bytes[at + 4 + i]!
    const high = bytes[at + 8 + i]!
    smalls[i] = d & 63
    smalls[i + 4] = (high & 15) | ((d >> 2) & 48)
    smalls[i + 8] = m & 63
    smalls[i + 12] = (high >> 4) | ((m >> 2) & 48)
  }
}

export const Q4_K: Codec = {
  numbers: BLOCK,
  bytes: 144,
  decode: (bytes, at, blocks, into, to) => {
    let finite = true
    for (let b = 0; b < blocks; b++, at += 144) {
      const d = HALF[halfAt(bytes, at)]!
      const dmin = HALF[halfAt(bytes, at + 2)]!
      if (!Number.isFinite(d + dmin)) finite = false
      unpackSmalls(bytes, at + 4)
      for (let sub = 0; sub < SUB_BLOCKS; sub++) {
        const factor = d * smalls[sub]!
        const offset = dmin * smalls[sub + 8]!
        const from = at + 16 + (sub >> 1) * 32
        const shift = (sub & 1) * 4
        for (let i = 0; i < 32; i++) into[to++] = factor * ((bytes[from + i]! >> shift) & 15) - offset
      }
    }
    return finite
  },
}

export const Q5_K: Codec = {
  numbers: BLOCK,
  bytes: 176,
  decode: (bytes, at, blocks, into, to) => {
    let finite = true
    for (let b = 0; b < blocks; b++, at += 176) {
      const d = HALF[halfAt(bytes, at)]!
      const dmin = HALF[halfAt(bytes, at + 2)]!
      if (!Number.isFinite(d + dmin)) finite = false
      unpackSmalls(bytes, at + 4)
      for (let sub = 0; sub < SUB_BLOCKS; sub++) {
        const factor = d * smalls[sub]!
        const offset = dmin * smalls[sub + 8]!
        const from = at + 48 + (sub >> 1) * 32
        const shift = (sub & 1) * 4
        for (let i = 0; i < 32; i++) {
          const high = (bytes[at + 16 + i]! >> sub) & 1
          into[to++] = factor * (((bytes[from + i]! >> shift) & 15) | (high << 4)) - offset
        }
      }
    }
    return finite
  },
}

export const Q6_K: Codec = {
  numbers: BLOCK,
  bytes: 210,
  decode: (bytes, at, blocks, into, to) => {
    let finite = true
    for (let b = 0; b < blocks; b++, at += 210) {
      const d = HALF[halfAt(bytes, at + 208)]!
      if (!Number.isFinite(d)) finite = false
      // Each half of 128 numbers: low nibbles of 64 bytes, then their high ones; two high bits of four numbers in each of 32 bytes.
      for (let run = 0; run < 8; run++) {
        const half = run >> 2
        const quarter = run & 3
        const low = at + half * 64 + (quarter & 1) * 32
        const high = at + 128 + half * 32
        for (let i = 0; i < 32; i++) {
          const scale = (bytes[at + 192 + run * 2 + (i >> 4)]! << 24) >> 24
          const code = ((bytes[low + i]! >> ((quarter >> 1) * 4)) & 15) | (((bytes[high + i]! >> (quarter * 2)) & 3) << 4)
          into[to++] = d * scale * (code - 32)
        }
      }
    }
    return finite
  },
}
