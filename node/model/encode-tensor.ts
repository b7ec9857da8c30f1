import { ModelError } from '../errors.ts'
import { blockFor } from './layout.ts'
import type { Quant } from './manifest.ts'
import { quantise } from './quantise.ts'
import type { Bits } from './quantise.ts'
import { DTYPE_BYTES } from './safetensors.ts'
import type { SourceTensor } from './safetensors.ts'

/** Numbers per chunk: bounds memory beyond the tensor itself, and keeps waits between chunks short. */
const CHUNK_NUMBERS = 2 * 2 ** 20
/** Rows transposed together, so that a cache line read is used whole. */
const TILE_ROWS = 32
const MAX_F16 = 65504

type Chunks = AsyncIterable<Uint8Array>
/** Copies numbers `from..from + into.length` into `into`. */
type Decode = (from: number, into: Float32Array) => void

/** The tensor's numbers in their own order, as f32 or f16. Throws `ModelError` when one is not finite. */
export async function* encodeRowMajor(source: SourceTensor, type: 'f32' | 'f16'): AsyncGenerator<Uint8Array> {
  const width = DTYPE_BYTES[source.dtype]
  for (let from = 0; from < source.bytes; from += CHUNK_NUMBERS * width) {
    const bytes = await source.read(from, Math.min(source.bytes, from + CHUNK_NUMBERS * width))
    const numbers = new Float32Array(bytes.byteLength / width)
    decoder(source, bytes)(0, numbers)
    yield asBytes(type === 'f32' ? numbers : toF16(numbers))
  }
}

/** Numbers of a [outputs, inputs] weight as [inputs, outputs]. Throws `ModelError` when one is not finite. */
export async function* encodeTransposed(source: SourceTensor, type: 'f32' | 'f16'): AsyncGenerator<Uint8Array> {
  const [outputs, inputs] = matrix(source)
  const decode = decoder(source, await source.read(0, source.bytes))
  const stripWidth = Math.max(1, Math.min(inputs, Math.floor(CHUNK_NUMBERS / outputs)))
  for (let first = 0; first < inputs; first += stripWidth) {
    const width = Math.min(stripWidth, inputs - first)
    const strip = new Float32Array(width * outputs)
    const tile = Array.from({ length: TILE_ROWS }, () => new Float32Array(width))
    for (let top = 0; top < outputs; top += TILE_ROWS) {
      const rows = Math.min(TILE_ROWS, outputs - top)
      for (let r = 0; r < rows; r++) decode((top + r) * inputs + first, tile[r]!)
      for (let i = 0; i < width; i++) for (let r = 0; r < rows; r++) strip[i * outputs + top + r] = tile[r]![i]!
    }
    yield asBytes(type === 'f32' ? strip : toF16(strip))
  }
}

/** The tensors that a linear weight [outputs, inputs] is stored as, in the order of its layout; to be drained in that order. */
export function encodeLinear(source: SourceTensor, quant: Quant): Chunks[] {
  if (quant.kind === 'f32' || quant.kind === 'f16') return [encodeTransposed(source, quant.kind)]
  const scales: Float32Array[] = []
  return [encodeCodes(source, quant.kind === 'q4' ? 4 : 8, quant.block, scales), encodeScales(scales)]
}

async function* encodeCodes(source: SourceTensor, bits: Bits, askedBlock: number, scales: Float32Array[]): AsyncGenerator<Uint8Array> {
  const [outputs, inputs] = matrix(source)
  const block = blockFor(askedBlock, inputs)
  const rowBytes = inputs * DTYPE_BYTES[source.dtype]
  const rowsPerChunk = Math.max(1, Math.floor(CHUNK_NUMBERS / inputs))
  for (let row = 0; row < outputs; row += rowsPerChunk) {
    const rows = Math.min(rowsPerChunk, outputs - row)
    const numbers = new Float32Array(rows * inputs)
    decoder(source, await source.read(row * rowBytes, (row + rows) * rowBytes))(0, numbers)
    const quantised = quantise(numbers, rows, inputs, bits, block)
    scales.push(quantised.scales)
    yield quantised.codes
  }
}

async function* encodeScales(scales: readonly Float32Array[]): AsyncGenerator<Uint8Array> {
  for (const part of scales) yield asBytes(part)
}

function matrix(source: SourceTensor): [number, number] {
  const [outputs, inputs] = source.shape
  if (outputs === undefined || inputs === undefined) throw new TypeError(`tensor ${source.name} is no matrix`)
  return [outputs, inputs]
}

function decoder(source: SourceTensor, bytes: Uint8Array<ArrayBuffer>): Decode {
  const count = bytes.byteLength / DTYPE_BYTES[source.dtype]
  const copy = copier(source, bytes, count)
  return (from, into) => {
    copy(from, into)
    // Anything times zero is zero, but for NaN and infinities.
    let check = 0
    for (let i = 0; i < into.length; i++) check += into[i]! * 0
    if (Number.isNaN(check))
      throw new ModelError(`${source.file}: tensor ${source.name} has weights that are not finite: the checkpoint is damaged`)
  }
}

function copier(source: SourceTensor, bytes: Uint8Array<ArrayBuffer>, count: number): Decode {
  if (source.dtype === 'F32') {
    const numbers = new Float32Array(bytes.buffer, bytes.byteOffset, count)
    return (from, into) => into.set(numbers.subarray(from, from + into.length))
  }
  if (source.dtype === 'F16') {
    const numbers = new Float16Array(bytes.buffer, bytes.byteOffset, count)
    return (from, into) => into.set(numbers.subarray(from, from + into.length))
  }
  // bfloat16 is the upper half of a float32.
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, count)
  return (from, into) => {
    const words = new Uint32Array(into.buffer, into.byteOffset, into.length)
    for (let i = 0; i < words.length; i++) words[i] = halves[from + i]! << 16
  }
}

/** Rounded to nearest even; what is too large becomes the largest finite number. */
function toF16(numbers: Float32Array): Float16Array {
  for (let i = 0; i < numbers.length; i++) {
    const value = numbers[i]!
    if (value > MAX_F16) numbers[i] = MAX_F16
    else if (value < -MAX_F16) numbers[i] = -MAX_F16
  }
  return new Float16Array(numbers)
}

function asBytes(numbers: Float32Array | Float16Array): Uint8Array {
  return new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)
}
