import type { Codec } from './codec.ts'
import { BF16, F16, F32 } from './plain.ts'

/** Codings that a checkpoint's weights may have here, by the name that their file format gives them. */
export const CODECS = Object.freeze({ F32, F16, BF16 }) satisfies Readonly<Record<string, Codec>>

export type SourceType = keyof typeof CODECS

export function isSourceType(name: string): name is SourceType {
  return Object.hasOwn(CODECS, name)
}

/** Bytes of `count` numbers that begin with a block; undefined when they don't fill whole blocks. */
export function codedBytes(type: SourceType, count: number): number | undefined {
  const { numbers, bytes } = CODECS[type]
  return count % numbers === 0 ? (count / numbers) * bytes : undefined
}
