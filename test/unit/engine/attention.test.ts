import assert from 'node:assert/strict'
import { test } from 'node:test'
import { kvMemory, KvPool } from '../../../node/engine/kv-pool.ts'
import { BLOCK_TOKENS, KV_TYPES } from '../../../node/engine/kv-shape.ts'
import type { AttentionShape, KvType } from '../../../node/engine/kv-shape.ts'
import { Xoshiro128 } from '../../../node/engine/random.ts'
import { Operand } from '../../../node/engine/operands.ts'
import { freePlan, AttentionSessions } from '../../../node/engine/attention-sessions.ts'
import type { AttentionPlan, AttentionRows } from '../../../node/engine/attention-sessions.ts'

const SEED = 11
const GROUPED: AttentionShape = {
  heads: 8,
  kvHeads: 2,
  keyWidth: 16,
  valueWidth: 16,
  valuesAreKeys: false,
  scale: 0.25,
  window: null,
  sinks: false,
}
const SHAPES: Readonly<Record<string, AttentionShape>> = Object.freeze({
  grouped: GROUPED,
  'one head each': { ...GROUPED, kvHeads: 8 },
  'sliding window': { ...GROUPED, window: 70 },
  'narrow window': { ...GROUPED, window: 3 },
  sinks: { ...GROUPED, sinks: true },
  'sinks and window': { ...GROUPED, sinks: true, window: 20 },
  latent: { ...GROUPED, kvHeads: 1, keyWidth: 24, valueWidth: 24, valuesAreKeys: true },
})
/** Tokens before, new tokens, and the blocks in which they lie. */
const PLACES: readonly { readonly past: number; readonly rows: number; readonly table: readonly number[] }[] = [
  { past: 0, rows: 1, table: [0] },
  { past: 0, rows: 9, table: [3] },
  { past: 63, rows: 2, table: [1, 2] },
  { past: 150, rows: 1, table: [2, 3, 4] },
  { past: 150, rows: 40, table: [5, 1, 4] },
  { past: 200, rows: 1, table: [7, 5, 2, 0] },
]

interface Sequence {
  readonly keys: Float32Array
  readonly values: Float32Array
  readonly queries: Float32Array
  readonly sinks: Float32Array
}

function sequenceOf(shape: AttentionShape, tokens: number, rows: number): Sequence {
  const random = Xoshiro128.fromSeed(SEED)
  const numbers = (count: number): Float32Array => Float32Array.from({ length: count }, () => 4 * random.nextFloat() - 2)
  const keys = numbers(tokens * shape.kvHeads * shape.keyWidth)
  const values = shape.valuesAreKeys ? keys : numbers(tokens * shape.kvHeads * shape.valueWidth)
  return { keys, values, queries: numbers(rows * shape.heads * shape.keyWidth), sinks: numbers(shape.heads) }
}

/** Attention by its definition, in double precision. */
function reference(shape: AttentionShape, { keys, values, queries, sinks }: Sequence, past: number, rows: number): Float64Array {
  const { heads, kvHeads, keyWidth, valueWidth, scale, window } = shape
  const out = new Float64Array(rows * heads * valueWidth)
  for (let row = 0; row < rows; row++) {
    for (let head = 0; head < heads; head++) {
      const own = Math.floor(head / (heads / kvHeads))
      const from = window === null ? 0 : Math.max(0, past + row - window + 1)
      let sum = shape.sinks ? Math.exp(sinks[head]!) : 0
      const at = (row * heads + head) * valueWidth
      for (let token = from; token <= past + row; token++) {
        let score = 0
        for (let i = 0; i < keyWidth; i++)
          score += queries[(row * heads + head) * keyWidth + i]! * keys[(token * kvHeads + own) * keyWidth + i]!
        const weight = Math.exp(score * scale)
        sum += weight
        for (let i = 0; i < valueWidth; i++) out[at + i]! += weight * values[(token * kvHeads + own) * valueWidth + i]!
      }
      for (let i = 0; i < valueWidth; i++) out[at + i]! /= sum
    }
  }
  return out
}

function attendTo(
  attention: AttentionSessions,
  shape: AttentionShape,
  pool: KvPool,
  parts: readonly AttentionRows[],
  { queries, sinks: scores }: Sequence,
  into: Float32Array,
): void {
  const sinks = shape.sinks ? new Operand(scores, [shape.heads]) : null
  const plan: AttentionPlan = new Map()
  attention.run(shape, pool, { parts, queries, attention: into, sinks, plan })
  freePlan(plan)
  sinks?.free()
}

async function attend(
  shape: AttentionShape,
  type: KvType,
  sequence: Sequence,
  place: (typeof PLACES)[number],
  pool = new KvPool(shape, type, kvMemory(shape, type, 16)),
): Promise<Float32Array> {
  const { past, rows } = place
  const table = Int32Array.from(place.table)
  const attention = new AttentionSessions({ type, threads: 1 })
  try {
    pool.grow(16)
    const vectors = shape.valuesAreKeys ? [sequence.keys] : [sequence.keys, sequence.values]
    pool.write(table, 0, past + rows, vectors, 0)
    const into = new Float32Array(rows * shape.heads * shape.valueWidth)
    attendTo(attention, shape, pool, [{ firstRow: 0, rows, past, table }], sequence, into)
    return into
  } finally {
    attention.close()
  }
}

for (const [name, shape] of Object.entries(SHAPES)) {
  test(`${name}: attention over blocks is that of the definition, wherever they lie`, async () => {
    for (const place of PLACES) {
      const sequence = sequenceOf(shape, place.past + place.rows, place.rows)
      const expected = reference(shape, sequence, place.past, place.rows)
      const actual = await attend(shape, 'f32', sequence, place)
      for (const [i, value] of actual.entries()) assert.ok(Math.abs(value - expected[i]!) < 2e-6, `${name} ${JSON.stringify(place)} ${i}`)
      const inOrder = { ...place, table: place.table.map((_, i) => i) }
      assert.deepEqual(await attend(shape, 'f32', sequence, inOrder), actual, 'the place of blocks shows in the bits')
    }
  })

  for (const [type, range] of [
    ['q8', 0.02],
    ['q16', 1e-4],
  ] as const) {
    test(`${name}: ${type} keys and values are off by less than ${range} of the values' range`, async () => {
      for (const place of PLACES) {
        const sequence = sequenceOf(shape, place.past + place.rows, place.rows)
        const expected = reference(shape, sequence, place.past, place.rows)
        const actual = await attend(shape, type, sequence, place)
        let worst = 0
        for (const [i, value] of actual.entries()) worst = Math.max(worst, Math.abs(value - expected[i]!))
        assert.ok(worst > 0 && worst < 4 * range, `${name} ${JSON.stringify(place)}: ${worst}`)
      }
    })
  }
}

test('what another sequence left in a block, even NaN, does not show', async () => {
  for (const type of KV_TYPES) {
    const pool = new KvPool(GROUPED, type, kvMemory(GROUPED, type, 16))
    pool.grow(16)
    const spoilt = new Float32Array(BLOCK_TOKENS * GROUPED.kvHeads * GROUPED.keyWidth).fill(Number.NaN)
    pool.write(Int32Array.of(3), 0, BLOCK_TOKENS, [spoilt, spoilt], 0)
    const place = { past: 0, rows: 9, table: [3] }
    const sequence = sequenceOf(GROUPED, 9, 9)
    assert.deepEqual(await attend(GROUPED, type, sequence, place, pool), await attend(GROUPED, type, sequence, place))
  }
})

for (const [name, shape] of Object.entries(SHAPES)) {
  test(`${name}: sequences that go a step together get the bits that each gets alone`, async () => {
    for (const type of KV_TYPES) {
      const pool = new KvPool(shape, type, kvMemory(shape, type, 16))
      pool.grow(16)
      // Two over three blocks, one over scattered blocks, one over a single block, and a prompt between them.
      const places = [
        { past: 150, rows: 1, table: [0, 1, 2] },
        { past: 100, rows: 5, table: [11, 12] },
        { past: 129, rows: 1, table: [3, 4, 5] },
        { past: 140, rows: 1, table: [8, 6, 9] },
        { past: 10, rows: 1, table: [7] },
      ]
      const all = sequenceOf(shape, 700, 9)
      const attention = new AttentionSessions({ type, threads: 1 })
      const vectors = shape.valuesAreKeys ? [all.keys] : [all.keys, all.values]
      let firstRow = 0
      let firstToken = 0
      const parts = places.map(({ past, rows, table }) => {
        pool.write(Int32Array.from(table), 0, past + rows, vectors, firstToken)
        const part = { firstRow, rows, past, table: Int32Array.from(table) }
        firstRow += rows
        firstToken += past + rows
        return part
      })
      const together = new Float32Array(9 * shape.heads * shape.valueWidth)
      const alone = new Float32Array(together.length)
      attendTo(attention, shape, pool, parts, all, together)
      for (const part of parts) attendTo(attention, shape, pool, [part], all, alone)
      attention.close()
      assert.deepEqual(together, alone)
      assert.ok(together.every((value) => value !== 0))
    }
  })
}
