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

/** The memory of one layer's keys and values, shared by the threads of the engine. */
export interface KvMemory {
  /** Of keys and, unless they are values too, of values. */
  readonly numbers: readonly SharedArrayBuffer[]
  /** Of q16 and q8: a scale per token and head; else of no size. */
  readonly scales: readonly SharedArrayBuffer[]
}

/** Room for `maxBlocks`, none of which takes memory yet. */
export function kvMemory(shape: AttentionShape, type: KvType, maxBlocks: number): KvMemory {
  const reserve = (maxByteLength: number): SharedArrayBuffer => new SharedArrayBuffer(0, { maxByteLength })
  const parts = partsOf(shape)
  return {
    numbers: parts.map((part) => reserve(maxBlocks * blockBytes(part, type))),
    scales: parts.map((part) => reserve(maxBlocks * scaleBytes(part, type))),
  }
}

/**
 * Keys and values of one layer in blocks of {@link BLOCK_TOKENS} tokens, which sequences own by number. Memory is address space until a
 * block is used, and grows at its end: nothing is ever moved, and onnxruntime reads it where it lies.
 */
export class KvPool {
  readonly #parts: readonly BlockStore[]
  #blocks = 0

  constructor(shape: AttentionShape, type: KvType, { numbers, scales }: KvMemory) {
    this.#parts = partsOf(shape).map((part, i) => new BlockStore(part, type, numbers[i]!, scales[i]!))
  }

  /** Makes blocks 0 to `blocks - 1` usable. */
  grow(blocks: number): void {
    if (blocks <= this.#blocks) return
    for (const part of this.#parts) part.grow(blocks)
    this.#blocks = blocks
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

function partsOf({ kvHeads, keyWidth, valueWidth, valuesAreKeys }: AttentionShape): Part[] {
  const keys = { name: 'k', heads: kvHeads, width: keyWidth }
  const values = { name: 'v', heads: kvHeads, width: valueWidth }
  return valuesAreKeys ? [keys] : [keys, values]
}

function blockBytes({ heads, width }: Part, type: KvType): number {
  return heads * width * BLOCK_TOKENS * KV_TYPE_BYTES[type]
}

function scaleBytes({ heads }: Part, type: KvType): number {
  return type === 'f32' ? 0 : heads * BLOCK_TOKENS * SCALE_BYTES
}

type Codes = Float32Array | Int16Array | Int8Array

/** Blocks of one kind of vector, [heads, tokens, width] each. */
class BlockStore {
  readonly #part: Part
  readonly #numbersPerBlock: number
  readonly #scalesPerBlock: number
  readonly #blockBytes: number
  readonly #scaleBytes: number
  readonly #type: KvType
  readonly #numbers: SharedArrayBuffer
  readonly #scales: SharedArrayBuffer

  constructor(part: Part, type: KvType, numbers: SharedArrayBuffer, scales: SharedArrayBuffer) {
    this.#part = part
    this.#type = type
    this.#numbersPerBlock = part.heads * part.width * BLOCK_TOKENS
    this.#scalesPerBlock = part.heads * BLOCK_TOKENS
    this.#blockBytes = blockBytes(part, type)
    this.#scaleBytes = scaleBytes(part, type)
    this.#numbers = numbers
    this.#scales = scales
  }

  grow(blocks: number): void {
    growTo(this.#numbers, blocks * this.#blockBytes)
    growTo(this.#scales, blocks * this.#scaleBytes)
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

/** Another thread may grow it at the same time. */
function growTo(memory: SharedArrayBuffer, bytes: number): void {
  if (memory.byteLength >= bytes) return
  try {
    memory.grow(bytes)
  } catch (error) {
    if (memory.byteLength < bytes) throw error
  }
}

/** The largest number maps to ±`maxCode`. */
function scaleOf(numbers: Float32Array, from: number, count: number, maxCode: number): number {
  let largest = 0
  for (let i = from; i < from + count; i++) largest = Math.max(largest, Math.abs(numbers[i]!))
  return Math.fround(largest / maxCode)
}
