/** A second, simpler reading and writing of safetensors, to check the product's against. */
import { readFileSync } from 'node:fs'

export interface PlainTensor {
  readonly shape: readonly number[]
  readonly data: Float32Array
}

/** Whole file at once, every tensor as f32. */
export function readSafetensors(path: string): Map<string, PlainTensor> {
  const file = readFileSync(path)
  const headerBytes = Number(file.readBigUInt64LE(0))
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerBytes)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  const tensors = new Map<string, PlainTensor>()
  for (const [name, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
    if (name === '__metadata__') continue
    const bytes = file.subarray(8 + headerBytes + offsets[0], 8 + headerBytes + offsets[1])
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    const count = shape.reduce((product, n) => product * n, 1)
    tensors.set(name, { shape, data: Float32Array.from({ length: count }, (_, i) => readNumber(view, dtype, i)) })
  }
  return tensors
}

function readNumber(view: DataView, dtype: string, i: number): number {
  if (dtype === 'F32') return view.getFloat32(i * 4, true)
  if (dtype === 'F16') return view.getFloat16(i * 2, true)
  const word = new DataView(new ArrayBuffer(4))
  word.setUint16(2, view.getUint16(i * 2, true), true)
  return word.getFloat32(0, true)
}

/** A file of this header and data, whatever they say. */
export function safetensorsBytes(header: unknown, data: Uint8Array): Buffer {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(json.byteLength))
  return Buffer.concat([length, json, data])
}

/** A well-formed file of f32 tensors. */
export function writeF32Tensors(tensors: Readonly<Record<string, PlainTensor>>): Buffer {
  let end = 0
  const header: Record<string, unknown> = {}
  const parts: Buffer[] = []
  for (const [name, { shape, data }] of Object.entries(tensors)) {
    header[name] = { dtype: 'F32', shape, data_offsets: [end, end + data.byteLength] }
    end += data.byteLength
    parts.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength))
  }
  return safetensorsBytes(header, Buffer.concat(parts))
}
