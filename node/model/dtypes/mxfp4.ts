/**
 * MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 numbers of 4 bits (e2m1) that share a power of two (e8m0). Checkpoints such as
 * gpt-oss keep a weight in two U8 tensors: `<name>_blocks` [..., blocks, 16], the number of even place in the low half of each byte,
 * and `<name>_scales` [..., blocks].
 */

/** Numbers that share a scale. */
export const MXFP4_BLOCK = 32
export const MXFP4_BLOCK_BYTES = MXFP4_BLOCK / 2

/** e2m1: sign, 2 exponent bits, 1 mantissa bit. */
const VALUES = Float32Array.of(0, 0.5, 1, 1.5, 2, 3, 4, 6, -0, -0.5, -1, -1.5, -2, -3, -4, -6)
/** e8m0: an exponent with bias 127; 255 is NaN. */
const SCALES = Float32Array.from({ length: 256 }, (_, code) => (code === 255 ? Number.NaN : 2 ** (code - 127)))

/** Decodes `scales.length` blocks to 32 numbers each. Throws `RangeError` when the lengths do not fit together. */
export function decodeMxfp4(blocks: Uint8Array, scales: Uint8Array, into: Float32Array): void {
  if (blocks.length !== scales.length * MXFP4_BLOCK_BYTES || into.length !== scales.length * MXFP4_BLOCK) {
    throw new RangeError(
      `${blocks.length} bytes and ${scales.length} scales do not make ${into.length} numbers in blocks of ${MXFP4_BLOCK}`,
    )
  }
  for (let block = 0; block < scales.length; block++) {
    const scale = SCALES[scales[block]!]!
    const from = block * MXFP4_BLOCK_BYTES
    const to = block * MXFP4_BLOCK
    for (let i = 0; i < MXFP4_BLOCK_BYTES; i++) {
      const byte = blocks[from + i]!
      into[to + 2 * i] = VALUES[byte & 15]! * scale
      into[to + 2 * i + 1] = VALUES[byte >> 4]! * scale
    }
  }
}
