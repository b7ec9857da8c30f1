import { closeSync, openSync, readSync } from 'node:fs'
import { ModelError } from '../errors.ts'
import { BlockFactors } from './block-factors.ts'
import { CODECS } from './dtypes/index.ts'
import { matrixOf } from './source-tensor.ts'
import type { BlockScales, SourceTensor } from './source-tensor.ts'

/** Raw bytes read with one call. */
const PIECE_BYTES = 4 * 2 ** 20

/** A rectangle of a tensor as a matrix. */
export interface Panel {
  readonly row: number
  readonly rows: number
  readonly column: number
  readonly columns: number
}

/**
 * Reads and decodes weights, blocking its thread: meant for worker threads, where waiting for each piece would only cost time.
 * Keeps the files open that it has read.
 */
export class TensorReader {
  readonly #files = new Map<string, number>()
  #raw = new Uint8Array(new ArrayBuffer(PIECE_BYTES))
  #scratch = new Float32Array(0)

  /** Numbers of a panel, row after row, into the beginning of `into`. Throws `ModelError` when the file ends early or a number is not finite. */
  read(tensor: SourceTensor, panel: Panel, into: Float32Array): void {
    const { columns } = matrixOf(tensor)
    const { rowStep, columnStep } = tensor
    if (tensor.scales !== undefined) this.#readScaled(tensor, tensor.scales, panel, into)
    else if (columnStep !== 1) this.#readAcross(tensor, panel, into)
    else if (panel.columns === columns && rowStep === columns && tensor.pairedHead === undefined) {
      this.#readRun(tensor, tensor.start + panel.row * columns, panel.rows * columns, into, 0)
    } else {
      for (let r = 0; r < panel.rows; r++) {
        this.#readRun(
          tensor,
          tensor.start + storedRow(tensor, panel.row + r) * rowStep + panel.column,
          panel.columns,
          into,
          r * panel.columns,
        )
      }
    }
  }

  /** All numbers of a tensor. */
  readAll(tensor: SourceTensor): Float32Array<ArrayBuffer> {
    const { rows, columns } = matrixOf(tensor)
    const numbers = new Float32Array(rows * columns)
    this.read(tensor, { row: 0, rows, column: 0, columns }, numbers)
    return numbers
  }

  close(): void {
    for (const fd of this.#files.values()) closeSync(fd)
    this.#files.clear()
  }

  #readScaled(tensor: SourceTensor, scales: BlockScales, { row, rows, column, columns }: Panel, into: Float32Array): void {
    if (tensor.columnStep !== 1) throw new TypeError(`tensor ${tensor.name} is scaled in blocks and can't be transposed`)
    const at = (r: number): number => tensor.start + storedRow(tensor, r) * tensor.rowStep
    const stored = (r: number): number => Math.floor(at(r) / scales.columns)
    const factors = new BlockFactors(scales, stored(row), stored(row + rows - 1), (offset, count) =>
      this.#readBytes(scales.file, tensor.name, offset, count),
    )
    for (let r = 0; r < rows; r++) {
      const first = at(row + r) + column
      const numbers = into.subarray(r * columns, (r + 1) * columns)
      this.#readRun(tensor, first, columns, numbers, 0)
      if (!factors.apply(numbers, stored(row + r), first % scales.columns)) throw notFinite(tensor)
    }
  }

  /** Columns lie apart: reads what spans the panel's rows for each, and picks. */
  #readAcross(tensor: SourceTensor, { row, rows, column, columns }: Panel, into: Float32Array): void {
    const { start, rowStep, columnStep } = tensor
    if (rows === 1) {
      const span = this.#spanOf((columns - 1) * columnStep + 1)
      this.#readRun(tensor, start + row * rowStep + column * columnStep, span.length, span, 0)
      for (let c = 0; c < columns; c++) into[c] = span[c * columnStep]!
      return
    }
    const span = this.#spanOf((rows - 1) * rowStep + 1)
    for (let c = 0; c < columns; c++) {
      this.#readRun(tensor, start + row * rowStep + (column + c) * columnStep, span.length, span, 0)
      for (let r = 0; r < rows; r++) into[r * columns + c] = span[r * rowStep]!
    }
  }

  #spanOf(length: number): Float32Array {
    if (this.#scratch.length < length) this.#scratch = new Float32Array(length)
    return this.#scratch.subarray(0, length)
  }

  /** Stored numbers `first..first+count-1`, which may begin and end within blocks. */
  #readRun(tensor: SourceTensor, first: number, count: number, into: Float32Array, to: number): void {
    const codec = CODECS[tensor.dtype]
    const perPiece = Math.floor(PIECE_BYTES / codec.bytes) * codec.numbers
    let done = 0
    while (done < count) {
      const at = first + done
      const skipped = at % codec.numbers
      const wanted = Math.min(perPiece - skipped, count - done)
      const blocks = Math.ceil((skipped + wanted) / codec.numbers)
      const bytes = this.#readBytes(
        tensor.file,
        tensor.name,
        tensor.offset + ((at - skipped) / codec.numbers) * codec.bytes,
        blocks * codec.bytes,
      )
      let finite: boolean
      if (blocks * codec.numbers === wanted) finite = codec.decode(bytes, 0, blocks, into, to + done)
      else {
        const whole = new Float32Array(blocks * codec.numbers)
        finite = codec.decode(bytes, 0, blocks, whole, 0)
        into.set(whole.subarray(skipped, skipped + wanted), to + done)
      }
      if (!finite) throw notFinite(tensor)
      done += wanted
    }
  }

  /** Valid until the next call. */
  #readBytes(path: string, name: string, from: number, count: number): Uint8Array<ArrayBuffer> {
    const fd = this.#open(path)
    if (this.#raw.byteLength < count) this.#raw = new Uint8Array(new ArrayBuffer(count))
    let done = 0
    while (done < count) {
      let read: number
      try {
        read = readSync(fd, this.#raw, done, count - done, from + done)
      } catch (error) {
        throw new ModelError(`${path} can't be read at tensor ${name} (${(error as Error).message}): check the disk`, {
          cause: error,
        })
      }
      if (read === 0) {
        throw new ModelError(`${path} became shorter while tensor ${name} was read: do not change a checkpoint during packing`)
      }
      done += read
    }
    return this.#raw
  }

  #open(path: string): number {
    let fd = this.#files.get(path)
    if (fd === undefined) {
      try {
        fd = openSync(path, 'r')
      } catch (error) {
        throw new ModelError(`${path} can't be opened (${(error as Error).message}): do not change a checkpoint during packing`, {
          cause: error,
        })
      }
      this.#files.set(path, fd)
    }
    return fd
  }
}

function notFinite({ file, name }: SourceTensor): ModelError {
  return new ModelError(`${file}: tensor ${name} has weights that are not finite: the checkpoint is damaged, get the file again`)
}

/** Where a row of the view lies among the stored ones. */
function storedRow({ pairedHead }: SourceTensor, row: number): number {
  if (pairedHead === undefined) return row
  const within = row % pairedHead
  const half = pairedHead / 2
  return row - within + (within < half ? 2 * within : 2 * (within - half) + 1)
}
