/** How numbers of a stored tensor are coded: a whole number of blocks of a fixed size. */
export interface Codec {
  /** Numbers per block. */
  readonly numbers: number
  /** Bytes per block. */
  readonly bytes: number
  /**
   * Decodes `blocks` blocks from byte `at` on into `into` from index `to` on. Returns whether all numbers are finite.
   * Both are large enough; `at` is a multiple of 4 where a block has more than one byte per number.
   */
  decode(bytes: Uint8Array<ArrayBuffer>, at: number, blocks: number, into: Float32Array, to: number): boolean
}

/** Whether all numbers of a range are finite: anything times zero is zero, but for NaN and infinities. */
export function allFinite(numbers: Float32Array, from: number, to: number): boolean {
  let check = 0
  for (let i = from; i < to; i++) check += numbers[i]! * 0
  return !Number.isNaN(check)
}
