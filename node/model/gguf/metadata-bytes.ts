import type { GGUFTypedMetadata } from '@huggingface/gguf'

/** Bytes of a value by its type's number; texts (8) and lists (9) vary. */
const WIDTHS: Readonly<Record<number, number>> = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 }
const TEXT = 8
const LIST = 9
const NOT_IN_FILE = new Set(['version', 'tensor_count', 'kv_count'])

/** Where a file's metadata ends if every text has been read whole, in bytes from its start. */
export function metadataBytes(typed: GGUFTypedMetadata): number {
  // Version 1 has lengths of 32 bits.
  const length = typed.version.value === 1 ? 4 : 8
  const valueBytes = (value: unknown, type: number, subType: number | undefined): number => {
    if (type === TEXT) return length + Buffer.byteLength(value as string)
    if (type !== LIST) return WIDTHS[type] ?? Number.NaN
    const items = value as unknown[]
    const start = 4 + length
    if (subType === TEXT) return items.reduce<number>((sum, item) => sum + valueBytes(item, TEXT, undefined), start)
    // Lists of lists are in no model's metadata; their sizes can't be told from what was read.
    return start + items.length * (WIDTHS[subType ?? -1] ?? Number.NaN)
  }
  let end = 8 + 2 * length
  for (const [key, entry] of Object.entries(typed)) {
    if (NOT_IN_FILE.has(key)) continue
    const { value, type, subType } = entry as { value: unknown; type: number; subType?: number }
    end += length + Buffer.byteLength(key) + 4 + valueBytes(value, type, subType)
  }
  return end
}
