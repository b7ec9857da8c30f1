import { ModelError } from '../errors.ts'
import { MXFP4_BLOCK, MXFP4_BLOCK_BYTES } from './dtypes/mxfp4.ts'
import type { StoredTensor } from './safetensors.ts'
import { denseTensor } from './source-tensor.ts'
import type { SourceTensor } from './source-tensor.ts'

/** DeepSeek's blocks, and those of everyone who followed. */
const FP8_BLOCK = 128

/**
 * A weight kept as codes and scales in two entries: F8_E4M3 with `<name>_scale_inv`, or MXFP4 as `<name>_blocks` and `<name>_scales`.
 * Undefined when the entries hold no such weight of that name. Throws `ModelError` when codes and scales do not fit together.
 */
export function scaledTensor(stored: ReadonlyMap<string, StoredTensor>, name: string): SourceTensor | undefined {
  const codes = stored.get(name)
  if (codes?.dtype === 'F8_E4M3') return fp8Tensor(codes, stored.get(`${name}_scale_inv`))
  const blocks = stored.get(`${name}_blocks`)
  return codes === undefined && blocks !== undefined ? mxfp4Tensor(name, blocks, stored.get(`${name}_scales`)) : undefined
}

/** The weight to which an entry belongs that holds its codes or scales; undefined when its name says nothing of the kind. */
export function scaledBy(name: string): string | undefined {
  return /^(.+)_(?:scale_inv|blocks|scales)$/.exec(name)?.[1]
}

function fp8Tensor(codes: StoredTensor, scales: StoredTensor | undefined): SourceTensor {
  const { name, file, shape, begin, end } = codes
  const [rows, columns] = shape.slice(-2)
  const experts = shape.slice(0, -2)
  if (scales === undefined) {
    throw new ModelError(
      `${file}: tensor ${name} is F8_E4M3 without ${name}_scale_inv beside it; only fp8 in blocks of ${FP8_BLOCK} × ${FP8_BLOCK} is read: use a BF16 checkpoint`,
    )
  }
  const expected = [...experts, Math.ceil((rows ?? 0) / FP8_BLOCK), Math.ceil((columns ?? 0) / FP8_BLOCK)]
  const isFloat = scales.dtype === 'F32' || scales.dtype === 'BF16'
  // Blocks are counted over the rows of all experts together, so those of one must be whole.
  const isWhole = experts.length === 0 || (experts.length === 1 && rows! % FP8_BLOCK === 0)
  if (rows === undefined || columns === undefined || !isWhole || !isFloat || !sameShape(scales.shape, expected)) {
    throw new ModelError(
      `${scales.file}: tensor ${scales.name} (${scales.dtype} [${scales.shape.join(', ')}]) is no scale for ${name} [${shape.join(', ')}] in blocks of ${FP8_BLOCK} × ${FP8_BLOCK}; expected F32 [${expected.join(', ')}]: get the checkpoint again, or one in BF16`,
    )
  }
  return {
    ...denseTensor({ name, file, dtype: 'F8_E4M3', shape, offset: begin, bytes: end - begin }),
    scales: {
      file: scales.file,
      dtype: scales.dtype,
      offset: scales.begin,
      columns,
      blockRows: FP8_BLOCK,
      blockColumns: FP8_BLOCK,
    },
  }
}

function mxfp4Tensor(name: string, blocks: StoredTensor, scales: StoredTensor | undefined): SourceTensor {
  const outer = blocks.shape.slice(0, -1)
  const columns = (outer.at(-1) ?? 0) * MXFP4_BLOCK
  const fits = blocks.dtype === 'U8' && blocks.shape.at(-1) === MXFP4_BLOCK_BYTES && outer.length >= 2
  const isScale = scales !== undefined && (scales.dtype === 'U8' || scales.dtype === 'F8_E8M0') && sameShape(scales.shape, outer)
  if (!fits || !isScale) {
    throw new ModelError(
      `${blocks.file}: tensors ${blocks.name} (${blocks.dtype} [${blocks.shape.join(', ')}]) and ${name}_scales (${scales === undefined ? 'missing' : `${scales.dtype} [${scales.shape.join(', ')}]`}) do not make an MXFP4 weight: get the checkpoint again`,
    )
  }
  const shape = [...outer.slice(0, -1), columns]
  return {
    ...denseTensor({ name, file: blocks.file, dtype: 'MXFP4', shape, offset: blocks.begin, bytes: blocks.end - blocks.begin }),
    scales: { file: scales.file, dtype: 'E8M0', offset: scales.begin, columns, blockRows: 1, blockColumns: MXFP4_BLOCK },
  }
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((n, i) => n === b[i])
}
