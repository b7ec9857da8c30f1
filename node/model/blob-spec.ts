import { PartEncoder, sourcesOf } from './encode-tensor.ts'
import type { PartSpec } from './encode-tensor.ts'
import type { Layout } from './layout.ts'
import { numbersOf } from './source-tensor.ts'
import type { TensorReader } from './tensor-reader.ts'

/** How a blob of weights comes from a checkpoint: plain data, so that worker threads can be handed it. */
export interface BlobSpec {
  readonly layout: Layout
  /** Parts of each item; items lie one after the other, each laid out by `layout`. A shard has an item for each expert. */
  readonly items: readonly (readonly PartSpec[])[]
}

/** Bytes of the blob. */
export function blobBytes({ layout, items }: BlobSpec): number {
  return layout.bytes * items.length
}

/** Bytes of the checkpoint that the blob is made from. */
export function sourceBytes({ items }: BlobSpec): number {
  return items
    .flat()
    .flatMap(sourcesOf)
    .reduce((sum, source) => sum + source.bytes, 0)
}

/**
 * The blob's bytes, the gaps of its layout filled with zeros; chunks are not touched once they are given.
 * `onRead` hears how many bytes of the checkpoint were read since the last time. Throws `ModelError`.
 */
export async function* encodeBlob(spec: BlobSpec, reader: TensorReader, onRead: (bytes: number) => void): AsyncGenerator<Uint8Array> {
  const encoder = new PartEncoder(reader)
  for (const parts of spec.items) {
    let at = 0
    for (const [i, tensor] of spec.layout.tensors.entries()) {
      if (tensor.offset > at) yield new Uint8Array(tensor.offset - at)
      at = tensor.offset
      const part = parts[i]!
      const [source] = sourcesOf(part)
      const bytesPerNumber = source === undefined ? 0 : source.bytes / numbersOf(source)
      for (const { bytes, numbers } of encoder.encode(part)) {
        yield bytes
        at += bytes.byteLength
        if (numbers > 0) onRead(numbers * bytesPerNumber)
      }
      if (at !== tensor.offset + tensor.bytes) {
        throw new TypeError(`tensor ${tensor.name} took ${at - tensor.offset} bytes instead of ${tensor.bytes}`)
      }
    }
    if (spec.layout.bytes > at) yield new Uint8Array(spec.layout.bytes - at)
  }
}
