import { open } from 'node:fs/promises'
import { ModelError } from '../../errors.ts'
import { CODECS, codedBytes } from '../dtypes/index.ts'
import type { SourceType } from '../dtypes/index.ts'
import { denseTensor } from '../source-tensor.ts'
import type { SourceTensor } from '../source-tensor.ts'
import { metadataBytes } from './metadata-bytes.ts'
import { GgufMetadata } from './metadata.ts'

export const LIMITS = Object.freeze({
  /** Attention, norms and experts of a thousand layers, experts stored one by one. */
  tensors: 1_000_000,
  dimensions: 4,
})

const MAGIC = 'GGUF'
/** Names that ggml.h gives to type numbers. */
const TYPES: ReadonlyMap<number, SourceType> = new Map<number, SourceType>([
  [0, 'F32'],
  [1, 'F16'],
  [2, 'Q4_0'],
  [3, 'Q4_1'],
  [6, 'Q5_0'],
  [7, 'Q5_1'],
  [8, 'Q8_0'],
  [12, 'Q4_K'],
  [13, 'Q5_K'],
  [14, 'Q6_K'],
  [30, 'BF16'],
  [39, 'GGML_MXFP4'],
])

/** The checked header of a GGUF file: metadata, and where each tensor lies. */
export interface GgufFile {
  readonly path: string
  readonly metadata: GgufMetadata
  /** Shapes in the order of PyTorch: GGUF's reversed. */
  readonly tensors: ReadonlyMap<string, SourceTensor>
}

/** Reads the header of a GGUF file and checks it against the file. Throws `ModelError` naming file, tensor and remedy. */
export async function readGgufHeader(path: string): Promise<GgufFile> {
  const size = await checkMagic(path)
  // Loaded late: only packing of GGUF files needs it.
  const { gguf, GGMLQuantizationType } = await import('@huggingface/gguf')
  let parsed
  try {
    parsed = await gguf(path, { allowLocalFile: true, typedMetadata: true })
  } catch (error) {
    throw new ModelError(`${path}: the GGUF header can't be read (${(error as Error).message}): download the file again`, { cause: error })
  }
  if (!parsed.littleEndian) throw new ModelError(`${path} is a big-endian GGUF file: get the little-endian one`)
  const dataStart = Number(parsed.tensorDataOffset)
  if (parsed.tensorInfos.length > 0 && dataStart > size) {
    throw new ModelError(`${path} is truncated: its header ends at byte ${dataStart} and the file has ${size}; download it again`)
  }
  // The reader cuts a text in silence where it reaches beyond what was read so far.
  if (metadataBytes(parsed.typedMetadata) !== parsed.tensorInfoByteRange[0]) {
    throw new ModelError(`${path}: the metadata has texts that are cut off or no valid UTF-8: download the file again`)
  }
  if (parsed.tensorInfos.length > LIMITS.tensors) throw new ModelError(`${path} has more than ${LIMITS.tensors} tensors: it is damaged`)
  const tensors = new Map<string, SourceTensor>()
  for (const info of parsed.tensorInfos) {
    const type = TYPES.get(info.dtype)
    if (type === undefined) {
      const name = GGMLQuantizationType[info.dtype] ?? `type ${String(info.dtype)}`
      const known = [...TYPES.values()].map((each) => each.replace('GGML_', '')).join(', ')
      throw new ModelError(`${path}: tensor ${info.name} is in ${name}, which is not read; get a file of one of ${known}`)
    }
    if (tensors.has(info.name)) throw new ModelError(`${path}: tensor ${info.name} is listed twice: download the file again`)
    tensors.set(info.name, located({ ...info, type, path, dataStart, size }))
  }
  checkOverlaps(path, tensors)
  return { path, metadata: new GgufMetadata(path, { ...parsed.metadata }), tensors }
}

async function checkMagic(path: string): Promise<number> {
  let file
  try {
    file = await open(path, 'r')
  } catch (error) {
    throw new ModelError(`${path} can't be read (${(error as Error).message}): get the file again`, { cause: error })
  }
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(8), 0, 8, 0)
    const start = buffer.toString('latin1', 0, bytesRead)
    if (start === 'version ') throw new ModelError(`${path} is a Git LFS pointer, not the weights: run "git lfs pull" in its folder`)
    if (!start.startsWith(MAGIC) || bytesRead < 8)
      throw new ModelError(`${path} is no GGUF file (it does not begin with "GGUF"): get the file again`)
    return (await file.stat()).size
  } finally {
    await file.close()
  }
}

interface Info {
  readonly name: string
  readonly shape: readonly bigint[]
  readonly offset: bigint
  readonly type: SourceType
  readonly path: string
  readonly dataStart: number
  readonly size: number
}

function located({ name, shape: reversed, offset, type, path, dataStart, size }: Info): SourceTensor {
  const shape = reversed.map(Number).reverse()
  const count = shape.reduce((product, n) => product * n, 1)
  const { numbers } = CODECS[type]
  const text = `[${shape.join(', ')}]`
  if (
    shape.length === 0 ||
    shape.length > LIMITS.dimensions ||
    !Number.isSafeInteger(count) ||
    count === 0 ||
    shape.at(-1)! % numbers !== 0
  ) {
    throw new ModelError(`${path}: tensor ${name} can't have shape ${text} in ${type}: download the file again`)
  }
  const bytes = codedBytes(type, count)
  const begin = dataStart + Number(offset)
  if (begin + bytes > size) {
    throw new ModelError(
      `${path} is truncated: tensor ${name} ${text} in ${type} ends at byte ${begin + bytes} and the file has ${size}; download it again`,
    )
  }
  return denseTensor({ name, file: path, dtype: type, shape, offset: begin, bytes })
}

function checkOverlaps(path: string, tensors: ReadonlyMap<string, SourceTensor>): void {
  let previous: SourceTensor | undefined
  for (const tensor of [...tensors.values()].sort((a, b) => a.offset - b.offset)) {
    if (previous !== undefined && tensor.offset < previous.offset + previous.bytes) {
      throw new ModelError(`${path}: tensors ${previous.name} and ${tensor.name} overlap: download the file again`)
    }
    previous = tensor
  }
}
