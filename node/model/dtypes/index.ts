import type { Codec } from './codec.ts'
import { allFinite } from './codec.ts'
import { decodeFp8E4m3 } from './fp8.ts'
import { decodeMxfp4, MXFP4_BLOCK, MXFP4_BLOCK_BYTES } from './mxfp4.ts'
import { GGML_MXFP4, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 } from './ggml.ts'
import { Q4_K, Q5_K, Q6_K } from './ggml-k.ts'
import { BF16, F16, F32 } from './plain.ts'

/** Without the factors beside it, see `BlockScales`. */
const F8_E4M3: Codec = {
  numbers: 1,
  bytes: 1,
  decode: (bytes, at, count, into, to) => {
    decodeFp8E4m3(bytes.subarray(at, at + count), into.subarray(to, to + count))
    return allFinite(into, to, to + count)
  },
}

const E8M0_ONE = 127

/** Without the scales beside it, see `BlockScales`. */
const MXFP4: Codec = {
  numbers: MXFP4_BLOCK,
  bytes: MXFP4_BLOCK_BYTES,
  decode: (bytes, at, blocks, into, to) => {
    const codes = bytes.subarray(at, at + blocks * MXFP4_BLOCK_BYTES)
    decodeMxfp4(codes, new Uint8Array(blocks).fill(E8M0_ONE), into.subarray(to, to + blocks * MXFP4_BLOCK))
    return true
  },
}

/** Codings that a checkpoint's weights may have here, by the name that their file format gives them; `GGML_MXFP4` is GGUF's MXFP4. */
export const CODECS = Object.freeze({
  F32,
  F16,
  BF16,
  F8_E4M3,
  MXFP4,
  Q8_0,
  Q4_0,
  Q4_1,
  Q5_0,
  Q5_1,
  Q4_K,
  Q5_K,
  Q6_K,
  GGML_MXFP4,
}) satisfies Readonly<Record<string, Codec>>

export type SourceType = keyof typeof CODECS

export function isSourceType(name: string): name is SourceType {
  return Object.hasOwn(CODECS, name)
}

/** Bytes that `count` numbers take; not a whole number where they don't fill whole blocks. */
export function codedBytes(type: SourceType, count: number): number {
  const { numbers, bytes } = CODECS[type]
  return (count / numbers) * bytes
}
