import { attentionGraph } from './graph/attention-graph.ts'
import { stepAttentionGraph } from './graph/step-attention-graph.ts'
import type { Extent, KvPool } from './kv-pool.ts'
import { BLOCK_TOKENS } from './kv-shape.ts'
import type { AttentionShape, KvType } from './kv-shape.ts'
import { Operand, Operands } from './operands.ts'
import { openSession } from './session.ts'
import type { Session } from './session.ts'
import type { KvLayout, SessionThreads } from './worker-messages.ts'

/** Sequences of one run. More of them gain nothing, and each number is a graph of its own. */
const MAX_SEQUENCES = 16
/** Bytes of scores of one run: what stays in a core's cache beside the keys (measured: twice as fast as 16 times more). */
const MAX_SCORE_BYTES = 2 * 2 ** 20
/** Rows that read the keys together all the same, since a long context is dearer to read than its scores. */
const MIN_ROWS = 4
const FLOAT_BYTES = 4

/** Some rows of a pass: consecutive tokens of one sequence. */
export interface AttentionRows {
  /** Of the pass. */
  readonly firstRow: number
  readonly rows: number
  /** Position of the first of them. */
  readonly past: number
  /** Block of each {@link BLOCK_TOKENS} positions of the sequence. */
  readonly table: Int32Array
}

/** All rows of a pass. */
export interface AttentionPass {
  readonly parts: readonly AttentionRows[]
  /** [rows, heads * keyWidth]: of the layer that is attended to */
  readonly queries: Float32Array
  /** [rows, heads * valueWidth]: where it goes */
  readonly attention: Float32Array
  /** [heads]: of that layer, where the architecture has them */
  readonly sinks: Operand | null
  /** Filled by the first layer of each window. */
  readonly plan: AttentionPlan
}

/** Some rows that one run attends to, and what they see; the same for all layers of a shape. */
interface Cut {
  /** First row of each of its sequences in the pass: one sequence, or several with a row each. */
  readonly firstRows: readonly number[]
  /** Of each sequence. */
  readonly rows: number
  /** Of the one sequence, or one of each of several. */
  readonly extents: readonly Extent[]
  readonly mask: Operand
}

/** One run of an attention graph: a cut with its rows of the pass's queries and attention, or copies of them where they lie apart. */
interface Piece extends Cut {
  readonly queries: Operand
  readonly attention: Operand
  readonly fetches: Operands
}

/** How the rows of a pass are cut into runs, by window (0 for none). */
export type AttentionPlan = Map<number, readonly Piece[]>

/** Frees what the plan's operands hold. */
export function freePlan(plan: AttentionPlan): void {
  for (const piece of [...plan.values()].flat()) for (const operand of [piece.queries, piece.attention, piece.mask]) operand.free()
}

/** Attention of the layers of one trunk. */
export class AttentionSessions {
  readonly #type: KvType
  readonly #threads: SessionThreads
  readonly #sessions = new Map<string, Session>()

  constructor({ type, threads }: KvLayout) {
    this.#type = type
    this.#threads = threads
  }

  /** Attention of a pass whose keys and values are in the pool. */
  run(shape: AttentionShape, pool: KvPool, pass: AttentionPass): void {
    const queryWidth = shape.heads * shape.keyWidth
    const width = shape.heads * shape.valueWidth
    for (const piece of piecesOf(shape, pass)) {
      const { firstRows, queries, attention, mask } = piece
      const isApart = firstRows.length > 1
      if (isApart) {
        for (const [i, row] of firstRows.entries()) {
          queries.numbers.set(pass.queries.subarray(row * queryWidth, (row + 1) * queryWidth), i * queryWidth)
        }
      }
      const keysAndValues = piece.extents.flatMap((extent, e) => pool.operands(extent, e))
      const feeds = { queries, mask, ...(pass.sinks !== null && { sink_scores: pass.sinks }), ...Object.fromEntries(keysAndValues) }
      try {
        this.#session(shape, piece).run(new Operands(feeds), piece.fetches)
      } finally {
        for (const [, operand] of keysAndValues) operand.free()
      }
      if (isApart)
        for (const [i, row] of firstRows.entries()) pass.attention.set(attention.numbers.subarray(i * width, (i + 1) * width), row * width)
    }
  }

  close(): void {
    for (const session of this.#sessions.values()) session.release()
    this.#sessions.clear()
  }

  #session(shape: AttentionShape, piece: Cut): Session {
    const { heads, kvHeads, keyWidth, valueWidth, valuesAreKeys, scale, sinks } = shape
    const isStep = isStepOf(piece)
    const key = [heads, kvHeads, keyWidth, valueWidth, valuesAreKeys, scale, sinks, isStep, piece.extents.length].join(' ')
    let session = this.#sessions.get(key)
    if (session === undefined) {
      const makeGraph = isStep ? stepAttentionGraph : attentionGraph
      session = openSession({ model: makeGraph(shape, this.#type, piece.extents.length), folder: '', threads: this.#threads })
      this.#sessions.set(key, session)
    }
    return session
  }
}

function isStepOf({ rows, firstRows, extents }: Cut): boolean {
  return rows === 1 && firstRows.length === extents.length
}

function piecesOf(shape: AttentionShape, pass: AttentionPass): readonly Piece[] {
  const { parts, plan } = pass
  const window = shape.window ?? 0
  let pieces = plan.get(window)
  if (pieces === undefined) {
    pieces = joinSteps(parts.flatMap((part) => cut(shape, part))).map((each) => pieceOf(shape, pass, each))
    plan.set(window, pieces)
  }
  return pieces
}

function pieceOf(shape: AttentionShape, pass: AttentionPass, part: Cut): Piece {
  const { firstRows, rows } = part
  const operandOf = (numbers: Float32Array, width: number): Operand => {
    const start = firstRows[0]! * width
    const own = firstRows.length === 1 ? numbers.subarray(start, start + rows * width) : new Float32Array(firstRows.length * width)
    return new Operand(own, [1, firstRows.length * rows, width])
  }
  const queries = operandOf(pass.queries, shape.heads * shape.keyWidth)
  const attention = operandOf(pass.attention, shape.heads * shape.valueWidth)
  return { ...part, queries, attention, fetches: new Operands({ attention }) }
}

/** Puts sequences that go one step over as many blocks into one run. */
function joinSteps(pieces: readonly Cut[]): Cut[] {
  const joined = pieces.filter((piece) => !isStepOf(piece))
  const byBlocks = Map.groupBy(pieces.filter(isStepOf), ({ extents }) => extents[0]!.blocks)
  for (const [blocks, steps] of byBlocks) {
    for (let from = 0; from < steps.length; from += MAX_SEQUENCES) {
      const some = steps.slice(from, from + MAX_SEQUENCES)
      const mask = new Float32Array(some.length * blocks * BLOCK_TOKENS)
      for (const [i, step] of some.entries()) mask.set(step.mask.numbers, i * blocks * BLOCK_TOKENS)
      joined.push({
        firstRows: some.flatMap(({ firstRows }) => firstRows),
        rows: 1,
        extents: some.flatMap(({ extents }) => extents),
        mask: new Operand(mask, [some.length, blocks, 1, 1, BLOCK_TOKENS]),
      })
    }
  }
  return joined
}

/** Cuts rows into runs of bounded memory; each reads only the blocks that its rows see. */
function cut(shape: AttentionShape, { firstRow, rows, past, table }: AttentionRows): Cut[] {
  const perRow = shape.heads * (past + rows) * FLOAT_BYTES
  const most = Math.max(MIN_ROWS, Math.floor(MAX_SCORE_BYTES / perRow))
  const pieces: Cut[] = []
  for (let from = 0; from < rows; from += most) {
    const count = Math.min(most, rows - from)
    const first = past + from
    const seenFrom = shape.window === null ? 0 : Math.max(0, first - shape.window + 1)
    const firstBlock = Math.floor(seenFrom / BLOCK_TOKENS)
    const endBlock = Math.ceil((first + count) / BLOCK_TOKENS)
    pieces.push({
      firstRows: [firstRow + from],
      rows: count,
      extents: extentsOf(table.subarray(firstBlock, endBlock)),
      mask: maskOf(first, count, firstBlock, endBlock, shape.window),
    })
  }
  return pieces
}

/** Runs of consecutive blocks, in order. */
export function extentsOf(table: Int32Array): Extent[] {
  const extents: Extent[] = []
  for (let from = 0; from < table.length;) {
    let to = from + 1
    while (to < table.length && table[to] === table[to - 1]! + 1) to++
    extents.push({ first: table[from]!, blocks: to - from })
    from = to
  }
  return extents
}

/** [blocks, 1, 1, rows, BLOCK_TOKENS]: which positions each row sees. */
function maskOf(first: number, rows: number, firstBlock: number, endBlock: number, window: number | null): Operand {
  const mask = new Float32Array((endBlock - firstBlock) * rows * BLOCK_TOKENS)
  for (let block = firstBlock; block < endBlock; block++) {
    const base = block * BLOCK_TOKENS
    for (let row = 0; row < rows; row++) {
      const seenTo = first + row + 1 - base
      const seenFrom = window === null ? 0 : first + row + 1 - window - base
      const at = ((block - firstBlock) * rows + row) * BLOCK_TOKENS
      if (seenTo < BLOCK_TOKENS) mask.fill(-Infinity, at + Math.max(0, seenTo), at + BLOCK_TOKENS)
      if (seenFrom > 0) mask.fill(-Infinity, at, at + Math.min(BLOCK_TOKENS, seenFrom))
    }
  }
  return new Operand(mask, [endBlock - firstBlock, 1, 1, rows, BLOCK_TOKENS])
}
