import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { ModelError } from '../errors.ts'
import { codedBytes, isSourceType } from './dtypes/index.ts'
import { errorCode } from './files.ts'
import { denseTensor, numbersOf } from './source-tensor.ts'
import type { SourceTensor } from './source-tensor.ts'

export const LIMITS = Object.freeze({
  /** The format's own limit. */
  headerBytes: 100_000_000,
  dimensions: 8,
})

const LENGTH_BYTES = 8
const READ_PIECE_BYTES = 64 * 2 ** 20

/** Bytes per number of the types that are read here, alone or (U8) as codes with scales beside them. */
const DTYPE_BYTES: Readonly<Record<string, number>> = Object.freeze({ F32: 4, F16: 2, BF16: 2, F8_E4M3: 1, F8_E8M0: 1, U8: 1 })

/** One entry of a header: bytes `[begin, end)` of the file. */
export interface StoredTensor {
  readonly name: string
  readonly file: string
  readonly dtype: string
  readonly shape: readonly number[]
  readonly begin: number
  readonly end: number
}

/** The checked header of a safetensors file. */
export interface SafetensorsFile {
  readonly path: string
  readonly tensors: ReadonlyMap<string, StoredTensor>
}

interface HeaderEntry {
  readonly dtype: string
  readonly shape: readonly number[]
  readonly begin: number
  readonly end: number
}

/** Reads the header of a safetensors file and checks it against the file. Throws `ModelError` naming file, tensor and remedy. */
export async function readSafetensorsHeader(path: string): Promise<SafetensorsFile> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    const reason = errorCode(error) === 'ENOENT' ? 'is missing' : `can't be read (${(error as Error).message})`
    throw new ModelError(`${path} ${reason}: get the checkpoint's file again`, { cause: error })
  }
  try {
    const { size } = await file.stat()
    const dataStart = LENGTH_BYTES + (await headerLength(file, path, size))
    const header = parseHeader((await readExactly(file, LENGTH_BYTES, dataStart, path)).toString('utf8'), path)
    checkRanges(header, path, size - dataStart)
    const tensors = new Map<string, StoredTensor>()
    for (const [name, { dtype, shape, begin, end }] of header) {
      tensors.set(name, { name, file: path, dtype, shape, begin: dataStart + begin, end: dataStart + end })
    }
    return { path, tensors }
  } finally {
    await file.close()
  }
}

async function headerLength(file: FileHandle, path: string, size: number): Promise<number> {
  if (size < LENGTH_BYTES + 2) throw new ModelError(`${path} is too short (${size} bytes) for a safetensors file: download it again`)
  const start = await readExactly(file, 0, LENGTH_BYTES + 1, path)
  if (start.toString('latin1').startsWith('version ')) {
    throw new ModelError(`${path} is a Git LFS pointer, not the weights: run "git lfs pull" in the checkpoint's folder`)
  }
  const length = start.readBigUInt64LE(0)
  if (length > BigInt(LIMITS.headerBytes) || start[LENGTH_BYTES] !== 0x7b) {
    throw new ModelError(
      `${path} is not a safetensors file (its first bytes are no header): convert the checkpoint to safetensors, or get the file again`,
    )
  }
  if (length > BigInt(size - LENGTH_BYTES)) {
    throw new ModelError(`${path} is truncated: its header needs ${length} bytes and the file has ${size}; download it again`)
  }
  return Number(length)
}

function parseHeader(text: string, path: string): Map<string, HeaderEntry> {
  let header: unknown
  try {
    header = JSON.parse(text)
  } catch (error) {
    throw new ModelError(`${path}: the header is not valid JSON; get the file again`, { cause: error })
  }
  const entries = new Map<string, HeaderEntry>()
  for (const [name, value] of Object.entries(header as Record<string, unknown>)) {
    if (name === '__metadata__') continue
    const entry = parseEntry(value)
    if (entry === undefined) {
      throw new ModelError(`${path}: the header's entry of tensor ${name} is malformed (dtype, shape or data_offsets); get the file again`)
    }
    entries.set(name, entry)
  }
  return entries
}

function parseEntry(value: unknown): HeaderEntry | undefined {
  if (typeof value !== 'object' || value === null) return undefined
  const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>
  if (typeof dtype !== 'string' || !isCounts(shape) || shape.length > LIMITS.dimensions || !isCounts(offsets) || offsets.length !== 2)
    return undefined
  return { dtype, shape, begin: offsets[0]!, end: offsets[1]! }
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0)
}

function checkRanges(header: Map<string, HeaderEntry>, path: string, dataBytes: number): void {
  const sorted = [...header].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end)
  let end = 0
  let previous = ''
  for (const [name, entry] of sorted) {
    if (entry.end < entry.begin) throw new ModelError(`${path}: tensor ${name} ends before it begins; get the file again`)
    if (entry.end > dataBytes) {
      throw new ModelError(
        `${path} is truncated: tensor ${name} ends at byte ${entry.end} of the data and the file has ${dataBytes}; download it again`,
      )
    }
    if (entry.begin < end) throw new ModelError(`${path}: tensors ${previous} and ${name} overlap; get the file again`)
    if (Object.hasOwn(DTYPE_BYTES, entry.dtype)) {
      const needed = entry.shape.reduce((product, n) => product * n, DTYPE_BYTES[entry.dtype]!)
      if (needed !== entry.end - entry.begin) {
        throw new ModelError(
          `${path}: tensor ${name} of shape [${entry.shape.join(', ')}] in ${entry.dtype} needs ${needed} bytes and has ${entry.end - entry.begin}; get the file again`,
        )
      }
    }
    end = Math.max(end, entry.end)
    previous = name
  }
}

/** The weight that an entry holds by itself. Throws `ModelError` when its type is not read. */
export function plainTensor({ name, file, dtype, shape, begin, end }: StoredTensor): SourceTensor {
  if (!isSourceType(dtype) || !Object.hasOwn(DTYPE_BYTES, dtype) || codedBytes(dtype, numbersOf({ shape })) !== end - begin) {
    throw new ModelError(
      `${file}: tensor ${name} has type ${dtype}, which is not read; use a checkpoint in F32, F16, BF16, F8_E4M3 in scaled blocks, or MXFP4`,
    )
  }
  return denseTensor({ name, file, dtype, shape, offset: begin, bytes: end - begin })
}

async function readExactly(file: FileHandle, from: number, to: number, path: string): Promise<Buffer> {
  const buffer = Buffer.allocUnsafe(to - from)
  let done = 0
  while (done < buffer.byteLength) {
    const { bytesRead } = await file.read(buffer, done, Math.min(READ_PIECE_BYTES, buffer.byteLength - done), from + done)
    if (bytesRead === 0) throw new ModelError(`${path} became shorter while it was read: do not change a checkpoint during packing`)
    done += bytesRead
  }
  return buffer
}
