import { BLOCK_TOKENS, KV_TYPE_BYTES } from './kv-shape.ts'
import type { AttentionShape, KvType } from './kv-shape.ts'
import { Operand } from './operands.ts'

const MAX_CODE = Object.freeze({ q16: 32_767, q8: 127 })
const SCALE_BYTES = 4

/** A run of consecutive blocks. */
export interface Extent {
  readonly first: number
  readonly blocks: number
}

/**
 * Keys and values of one layer in blocks of {@link BLOCK_TOKENS} tokens, which sequences own by number. Memory is address space until a
 * block is used, and grows at its end: nothing is ever moved, and onnxruntime reads it where it lies.
 */
export class KvPool {
  readonly #parts: readonly BlockStore[]
  #blocks = 0

  /** Room for `maxBlocks`, none of which takes memory yet. */
  constructor(shape: AttentionShape, type: KvType, maxBlocks: number) {
    const { kvHeads, keyWidth, valueWidth, valuesAreKeys } = shape
    const keys = { name: 'k', heads: kvHeads, width: keyWidth }
    const values = { name: 'v', heads: kvHeads, width: valueWidth }
    this.#parts = (valuesAreKeys ? [keys] : [keys, values]).map((part) => new BlockStore(part, type, maxBlocks))
  }

  /** Makes blocks 0 to `blocks - 1` usable. */
  grow(blocks: number): void {
    if (blocks <= this.#blocks) return
    this.#blocks = blocks
    for (const part of this.#parts) part.grow(blocks)
  }

  /**
   * Stores keys and values of `rows` tokens from position `first` on; `table` holds the block of each {@link BLOCK_TOKENS} positions.
   * `vectors`: keys and, unless they are values too, values, [tokens, kvHeads * width] each, of which the tokens from `row` on are taken.
   */
  write(table: Int32Array, first: number, rows: number, vectors: readonly Float32Array[], row: number): void {
    for (let done = 0; done < rows;) {
      const position = first + done
      const slot = position % BLOCK_TOKENS
      const count = Math.min(BLOCK_TOKENS - slot, rows - done)
      const block = table[Math.floor(position / BLOCK_TOKENS)]!
      for (const [i, part] of this.#parts.entries()) {
        // What another sequence left there is masked, but a NaN shows through any mask.
        if (slot === 0 && count < BLOCK_TOKENS) part.clear(block)
        part.write(block, slot, count, vectors[i]!, row + done)
      }
      done += count
    }
  }

  /** Copies a whole block. */
  copy(from: number, to: number): void {
    for (const part of this.#parts) part.copy(from, to)
  }

  /** A run of blocks by the names of the attention graph's inputs, with `run` for its number. */
  operands(extent: Extent, run: number): [string, Operand][] {
    return this.#parts.flatMap((part) => part.operands(extent, run))
  }
}

interface Part {
  readonly name: string
  readonly heads: number
  readonly width: number
}

type Codes = Float32Array | Int16Array | Int8Array

/** Blocks of one kind of vector, [heads, tokens, width] each. */
class BlockStore {
  readonly #part: Part
  readonly #numbersPerBlock: number
  readonly #scalesPerBlock: number
  readonly #type: KvType
  readonly #numbers: ArrayBuffer
  /** Of q16 and q8: one per token and head. */
  readonly #scales: ArrayBuffer

  constructor(part: Part, type: KvType, maxBlocks: number) {
    this.#part = part
    this.#type = type
    this.#numbersPerBlock = part.heads * part.width * BLOCK_TOKENS
    this.#scalesPerBlock = part.heads * BLOCK_TOKENS
    this.#numbers = new ArrayBuffer(0, { maxByteLength: maxBlocks * this.#blockBytes })
    this.#scales = new ArrayBuffer(0, { maxByteLength: this.#isScaled ? maxBlocks * this.#scaleBytes : 0 })
  }

  grow(blocks: number): void {
    this.#numbers.resize(blocks * this.#blockBytes)
    if (this.#isScaled) this.#scales.resize(blocks * this.#scaleBytes)
  }

  clear(block: number): void {
    this.#view(block, 1).fill(0)
    if (this.#isScaled) this.#scaleView(block, 1).fill(0)
  }

  copy(from: number, to: number): void {
    this.#view(to, 1).set(this.#view(from, 1))
    if (this.#isScaled) this.#scaleView(to, 1).set(this.#scaleView(from, 1))
  }

  /** Tokens `slot` to `slot + count - 1` of a block: rows of `vectors` from `row` on. */
  write(block: number, slot: number, count: number, vectors: Float32Array, row: number): void {
    const { heads, width } = this.#part
    const into = this.#view(block, 1)
    const scales = this.#isScaled ? this.#scaleView(block, 1) : null
    const maxCode = this.#type === 'f32' ? 0 : MAX_CODE[this.#type]
    for (let token = 0; token < count; token++) {
      for (let head = 0; head < heads; head++) {
        const from = ((row + token) * heads + head) * width
        const place = slot + token
        const to = (head * BLOCK_TOKENS + place) * width
        if (scales === null) {
          into.set(vectors.subarray(from, from + width), to)
          continue
        }
        const scale = scaleOf(vectors, from, width, maxCode)
        scales[head * BLOCK_TOKENS + place] = scale
        const inverse = scale === 0 ? 0 : 1 / scale
        for (let i = 0; i < width; i++) into[to + i] = Math.round(vectors[from + i]! * inverse)
      }
    }
  }

  operands({ first, blocks }: Extent, run: number): [string, Operand][] {
    const { name, heads, width } = this.#part
    const numbers = new Operand(this.#view(first, blocks), [blocks, heads, BLOCK_TOKENS, width])
    if (!this.#isScaled) return [[`${name}${run}`, numbers]]
    const scales = new Operand(this.#scaleView(first, blocks), [blocks, heads, 1, BLOCK_TOKENS])
    return [
      [`${name}${run}`, numbers],
      [`${name}${run}_scale`, scales],
    ]
  }

  get #isScaled(): boolean {
    return this.#type !== 'f32'
  }

  get #blockBytes(): number {
    return this.#numbersPerBlock * KV_TYPE_BYTES[this.#type]
  }

  get #scaleBytes(): number {
    return this.#scalesPerBlock * SCALE_BYTES
  }

  #view(first: number, blocks: number): Codes {
    const length = blocks * this.#numbersPerBlock
    const from = first * this.#blockBytes
    if (this.#type === 'q8') return new Int8Array(this.#numbers, from, length)
    return this.#type === 'q16' ? new Int16Array(this.#numbers, from, length) : new Float32Array(this.#numbers, from, length)
  }

  #scaleView(first: number, blocks: number): Float32Array {
    return new Float32Array(this.#scales, first * this.#scaleBytes, blocks * this.#scalesPerBlock)
  }
}

/** The largest number maps to ±`maxCode`. */
function scaleOf(numbers: Float32Array, from: number, count: number, maxCode: number): number {
  let largest = 0
  for (let i = from; i < from + count; i++) largest = Math.max(largest, Math.abs(numbers[i]!))
  return Math.fround(largest / maxCode)
}
