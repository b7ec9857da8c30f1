import type { SourceType } from './dtypes/index.ts'

/**
 * Where a weight's numbers lie in a checkpoint: plain data, so that worker threads can be handed it. As a matrix, number (r, c) is the
 * stored number `start + r * rowStep + c * columnStep`; a vector is a matrix of one row, and more dimensions count as rows.
 */
export interface SourceTensor {
  readonly name: string
  /** File it is in. */
  readonly file: string
  readonly dtype: SourceType
  readonly shape: readonly number[]
  /** Byte of the file at which the stored numbers begin. */
  readonly offset: number
  /** Bytes of the file that belong to this tensor, whatever is viewed of them. */
  readonly bytes: number
  readonly start: number
  readonly rowStep: number
  readonly columnStep: number
  /**
   * Size of a head whose rows are stored in pairs: row `i` of the head's first half beside row `i` of its second.
   * llama.cpp stores q and k so where rotary embedding turns neighbours.
   */
  readonly pairedHead?: number
  readonly scales?: BlockScales
}

/** Factors beside a matrix's codes, one for each block of stored rows and columns. */
export interface BlockScales {
  readonly file: string
  readonly dtype: 'F32' | 'BF16' | 'E8M0'
  /** Byte of the file at which they begin, row after row of blocks. */
  readonly offset: number
  /** Columns of the whole stored matrix. */
  readonly columns: number
  readonly blockRows: number
  readonly blockColumns: number
}

/** A tensor stored row after row. */
export function denseTensor(init: Pick<SourceTensor, 'name' | 'file' | 'dtype' | 'shape' | 'offset' | 'bytes'>): SourceTensor {
  return { ...init, start: 0, rowStep: init.shape.at(-1) ?? 1, columnStep: 1 }
}

/** Element `index` along the first dimension of a dense tensor: one expert's matrix of all experts' in one. */
export function sliceOf(tensor: SourceTensor, index: number): SourceTensor {
  const [count, ...shape] = tensor.shape
  const size = numbersOf({ shape })
  const { rowStep: width } = tensor
  if (count === undefined || index >= count || tensor.columnStep !== 1 || width !== (tensor.shape.at(-1) ?? 1)) {
    throw new TypeError(`tensor ${tensor.name} can't be sliced at ${index}`)
  }
  return {
    ...tensor,
    name: `${tensor.name}[${index}]`,
    shape,
    start: tensor.start + index * size,
    bytes: tensor.bytes / count,
    rowStep: shape.at(-1) ?? 1,
  }
}

/** Every `step`th row of a matrix, or number of a vector, from `first` on. */
export function everyRow(tensor: SourceTensor, first: number, step: number): SourceTensor {
  const [rows, columns] = tensor.shape
  const shape = [Math.ceil((rows! - first) / step), ...(columns === undefined ? [] : [columns])]
  const share = shape[0]! / rows!
  if (columns === undefined) {
    const { columnStep } = tensor
    return { ...tensor, shape, bytes: tensor.bytes * share, start: tensor.start + first * columnStep, columnStep: columnStep * step }
  }
  return { ...tensor, shape, bytes: tensor.bytes * share, start: tensor.start + first * tensor.rowStep, rowStep: tensor.rowStep * step }
}

/** Rows `first..first+count-1` of a matrix. */
export function rowRange(tensor: SourceTensor, first: number, count: number): SourceTensor {
  const [rows, columns] = tensor.shape
  return { ...tensor, shape: [count, columns!], bytes: (tensor.bytes * count) / rows!, start: tensor.start + first * tensor.rowStep }
}

/** A matrix with rows and columns exchanged. */
export function transposed(tensor: SourceTensor): SourceTensor {
  return { ...tensor, shape: tensor.shape.toReversed(), rowStep: tensor.columnStep, columnStep: tensor.rowStep }
}

/** A q or k projection whose heads of `headDim` rows are stored in pairs, in the order that its rotary embedding here expects. */
export function unpaired(tensor: SourceTensor, headDim: number): SourceTensor {
  return { ...tensor, pairedHead: headDim }
}

/** How many numbers a shape has. */
export function numbersOf({ shape }: { readonly shape: readonly number[] }): number {
  return shape.reduce((product, n) => product * n, 1)
}

/** Rows and columns as {@link SourceTensor} counts them. */
export function matrixOf({ shape }: { readonly shape: readonly number[] }): { readonly rows: number; readonly columns: number } {
  const columns = shape.at(-1) ?? 1
  return { rows: numbersOf({ shape: shape.slice(0, -1) }), columns }
}
