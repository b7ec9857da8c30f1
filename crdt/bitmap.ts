/** The bitmap of a set of experts, as short as it can be. */
export function bitmapOf(experts: Iterable<number>): Uint8Array {
  const list = [...experts]
  const bitmap = new Uint8Array(list.length === 0 ? 0 : (Math.max(...list) >> 3) + 1)
  for (const expert of list) bitmap[expert >> 3]! |= 1 << (expert & 7)
  return bitmap
}

export function bitmapHas(bitmap: Uint8Array | undefined, expert: number): boolean {
  return bitmap !== undefined && ((bitmap[expert >> 3] ?? 0) & (1 << (expert & 7))) !== 0
}

/** The set bits, ascending. */
export function bitmapMembers(bitmap: Uint8Array): number[] {
  const experts: number[] = []
  for (let i = 0; i < bitmap.length; i++) {
    for (let rest = bitmap[i]!; rest !== 0; rest &= rest - 1) experts.push(i * 8 + 31 - Math.clz32(rest & -rest))
  }
  return experts
}

/** The bitmap without zero bytes at its end, so that equal sets have equal bytes. */
export function trimBitmap(bitmap: Uint8Array): Uint8Array {
  let length = bitmap.length
  while (length > 0 && bitmap[length - 1] === 0) length--
  return bitmap.subarray(0, length)
}

/** The members of one of the sets that are not in the other. */
export function bitmapXor(a: Uint8Array = EMPTY, b: Uint8Array = EMPTY): Uint8Array {
  const [longer, shorter] = a.length >= b.length ? [a, b] : [b, a]
  return longer.map((byte, i) => byte ^ (shorter[i] ?? 0))
}

const EMPTY = new Uint8Array()
