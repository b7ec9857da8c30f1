import type { ByteReader, ByteWriter } from '../../protocols/ledger/bytes.ts'
import { InvalidMessageError } from '../../protocols/wire/errors.ts'
import { EMPTY_SKETCH, SKETCH_BINS } from '../latency-sketch.ts'
import type { Sketch } from '../latency-sketch.ts'
import { bounded } from './codec.ts'

const MAX_COUNT = 2 ** 32 - 1

/** `[varint bins][varint first][varint count ...]`; without bins nothing follows. */
export function writeSketch(writer: ByteWriter, { first, counts }: Sketch): void {
  writer.varint(counts.length)
  if (counts.length === 0) return
  writer.varint(first)
  for (const count of counts) writer.varint(count)
}

/** Throws `InvalidMessageError` or `LimitExceededError` for bins out of range, or empty ones at either end. */
export function readSketch(reader: ByteReader): Sketch {
  const length = bounded(reader.varint(), 0, SKETCH_BINS, 'bins')
  if (length === 0) return EMPTY_SKETCH
  const first = bounded(reader.varint(), 0, SKETCH_BINS - length, 'is the first bin; the last would')
  const counts = new Uint32Array(length)
  for (let i = 0; i < length; i++) counts[i] = bounded(reader.varint(), 0, MAX_COUNT, 'calls in a bin')
  if (counts[0] === 0 || counts[length - 1] === 0) throw new InvalidMessageError('a sketch begins or ends with an empty bin')
  return { first, counts }
}
