import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { TestContext } from 'node:test'
import { Batcher } from '../../../node/driver/batcher.ts'
import { CancelScope } from '../../../node/driver/cancel-scope.ts'
import type { DispatchContext } from '../../../node/driver/dispatcher.ts'
import type { LayerWork } from '../../../node/driver/expert-group.ts'
import type { DrivenModel } from '../../../node/driver/generation.ts'
import { MAX_ADVANCE_ROWS } from '../../../node/driver/layer-loop.ts'
import { PrefixStore } from '../../../node/driver/prefix-store.ts'
import type { Sequence } from '../../../node/driver/sequence.ts'
import { Tally } from '../../../node/driver/tally.ts'
import type { DoneLayer, EngineInit, Experts, Trunk } from '../../../node/engine/engine.ts'
import { kvTokenBytes } from '../../../node/engine/kv-shape.ts'
import { createEngine } from '../../../node/engine/onnx-engine.ts'
import { argmax } from '../../../node/engine/sampler.ts'
import { NoRouteError } from '../../../node/errors.ts'
import { openLocally } from '../../helpers/local-generation.ts'
import { packForTest } from '../../helpers/packed-model.ts'

const BLOCK = 64
/** Of random-qwen3moe. */
const CONTEXT = 128

const prompt = (length: number, seed: number): number[] => Array.from({ length }, (_, i) => (seed * 31 + i * 7 + 5) % 250)

/** Runs experts in this process; `fault` may refuse a layer. */
class LocalDispatcher {
  readonly experts: Experts
  readonly rows: number[] = []
  /** The pass of each call, by a number of its own. */
  readonly passes: number[] = []
  fault: ((work: LayerWork) => Error | null) | null = null

  constructor(experts: Experts) {
    this.experts = experts
  }

  /** Whether passes may go through layers without it; layers that did. */
  isSole = false
  readonly ranAlone: { readonly layer: number; readonly rows: number }[] = []

  soleExperts(): Experts | null {
    return this.isSole ? this.experts : null
  }

  ranHere(_context: DispatchContext, { layer, experts }: DoneLayer, rows: number): void {
    assert.equal(experts.length, rows * 2)
    this.ranAlone.push({ layer, rows })
  }

  async run(context: DispatchContext, work: LayerWork, into: Float32Array): Promise<void> {
    context.scope.throwIfCancelled()
    const { picks, rows } = work
    if (work.layer === 0) this.rows.push(rows)
    this.passes.push(context.exploreSeed)
    const error = this.fault?.(work) ?? null
    if (error !== null) throw error
    into.set(await this.experts.run({ layer: work.layer, x: work.x, rows, ...picks }))
    const rowOf = Uint16Array.from({ length: rows }, (_, i) => i)
    const counts = { sentBytes: 0, receivedBytes: 0, picks: picks.pickRow.length, cachedPicks: 0 }
    context.tally.served({ peer: 'me', local: true, layer: work.layer, rowOf, ...counts })
  }
}

interface Bench {
  readonly trunk: Trunk
  readonly other: Trunk
  readonly dispatcher: LocalDispatcher
  /** With nothing kept from before. */
  batcher(): Batcher
}

async function open(t: TestContext, blocks = 64, init: Pick<EngineInit, 'callerRunBytes'> = {}): Promise<Bench> {
  const { model } = await packForTest(t, 'random-qwen3moe')
  const { manifest } = model
  const limitBytes = blocks * BLOCK * kvTokenBytes(manifest.config, 'f32')
  const engine = createEngine({ threads: 1, kv: { type: 'f32', limitBytes }, ...init })
  t.after(() => engine.close())
  const { trunk, experts } = await openLocally(engine, model)
  const dispatcher = new LocalDispatcher(experts)
  // The batcher never looks at the tokenizer.
  const driven: DrivenModel = { id: model.id, digest: '', manifest, trunk, tokenizer: null! }
  const prefixes = new PrefixStore({ maxBytes: limitBytes / 2 })
  const batcher = (): Batcher => {
    while (prefixes.forgetOldest());
    return new Batcher({ dispatcher, counts: { add: () => {} } }, driven, prefixes)
  }
  return { trunk, other: await engine.openTrunk(model), dispatcher, batcher }
}

interface Query {
  readonly sequence: Sequence
  readonly scope: CancelScope
  readonly tally: Tally
}

function query(batcher: Batcher, kind: 'f16' | 'f32' = 'f16'): Query {
  const scope = new CancelScope()
  const tally = new Tally({ wire: kind, combine: 'host', seed: 1 })
  return { scope, tally, sequence: batcher.open({ tally, scope, expectedTokens: 0 }) }
}

/** Logits after the prompt and after each of `count` more tokens, the likeliest ones. */
async function generate(batcher: Batcher, { sequence }: Query, tokens: readonly number[], count: number): Promise<Float32Array[]> {
  try {
    const all = [(await batcher.advance(sequence, tokens)).slice()]
    while (all.length <= count) all.push((await batcher.advance(sequence, [argmax(all.at(-1)!)])).slice())
    return all.map((logits) => logits.slice())
  } finally {
    batcher.close(sequence)
  }
}

const aloneAll = async (bench: Bench, prompts: readonly number[][], count: number): Promise<Float32Array[][]> => {
  const all: Float32Array[][] = []
  for (const tokens of prompts) {
    const batcher = bench.batcher()
    all.push(await generate(batcher, query(batcher), tokens, count))
  }
  return all
}

test('queries advance together, each with the bits that it has alone', async (t) => {
  const bench = await open(t)
  const prompts = Array.from({ length: 8 }, (_, i) => prompt(3 + 9 * i, i))
  const alone = await aloneAll(bench, prompts, 10)
  bench.dispatcher.rows.length = 0
  const batcher = bench.batcher()
  const queries = prompts.map(() => query(batcher))
  const together = await Promise.all(prompts.map((tokens, i) => generate(batcher, queries[i]!, tokens, 10)))
  assert.deepEqual(together, alone)
  const { rows } = bench.dispatcher
  assert.ok(rows.length < 30, `${rows.length} passes for 8 queries of 11 passes each`)
  assert.ok(rows.filter((count) => count === 8).length >= 4, rows.join(' '))
  for (const [i, { tally }] of queries.entries()) {
    const [host] = tally.report().hosts
    // Each query's report tells of its own rows only: prompt and ten tokens in two layers.
    assert.equal(host!.rows, 2 * (prompts[i]!.length + 10))
  }
})

test('queries that decode also go in two passes that overlap, with the same bits', async (t) => {
  const bench = await open(t)
  const prompts = Array.from({ length: 8 }, (_, i) => prompt(20, i))
  const alone = await aloneAll(bench, prompts, 40)
  const { rows, passes } = bench.dispatcher
  rows.length = passes.length = 0
  const batcher = bench.batcher()
  assert.deepEqual(await Promise.all(prompts.map((tokens) => generate(batcher, query(batcher), tokens, 40))), alone)
  // Until both ways are known they take turns.
  assert.ok(rows.filter((count) => count === 8).length >= 8 && rows.filter((count) => count === 4).length >= 16, rows.join(' '))
  const isOverlapped = (pass: number, i: number): boolean => passes.lastIndexOf(pass) > i + 1 && passes[i + 1] !== pass
  assert.ok(passes.filter(isOverlapped).length >= 8, passes.join(' '))
})

test('where all experts are here passes of few rows go through the layers by themselves, with the same bits', async (t) => {
  const bench = await open(t, 64, { callerRunBytes: 0 })
  const prompts = [prompt(40, 1), prompt(5, 2)]
  const alone = await aloneAll(bench, prompts, 10)
  const { dispatcher } = bench
  dispatcher.isSole = true
  dispatcher.rows.length = 0
  assert.deepEqual(await aloneAll(bench, prompts, 10), alone)
  assert.ok(dispatcher.rows.length > 0 && dispatcher.rows.every((rows) => rows > MAX_ADVANCE_ROWS), 'pieces of the long prompt')
  const steps = Array.from({ length: 10 }, () => 1)
  for (const layer of [0, 1]) {
    const rows = dispatcher.ranAlone.filter((ran) => ran.layer === layer).map((ran) => ran.rows)
    assert.deepEqual(rows, [...steps, 5, ...steps])
  }
})

test('a pass that finds no memory beside another waits for it', async (t) => {
  // Room for three of the four that both come to need, at a token at which they go in two passes.
  const bench = await open(t, 3)
  const prompts = [prompt(BLOCK - 12, 1), prompt(BLOCK - 12, 2)]
  const alone = await aloneAll(bench, prompts, 40)
  bench.dispatcher.rows.length = 0
  const batcher = bench.batcher()
  assert.deepEqual(await Promise.all(prompts.map((tokens) => generate(batcher, query(batcher), tokens, 40))), alone)
  assert.ok(bench.dispatcher.rows.filter((rows) => rows === 1).length > 8, bench.dispatcher.rows.join(' '))
})

test('queries that are called in different ways take turns', async (t) => {
  const bench = await open(t)
  const [a, b] = [prompt(20, 1), prompt(20, 2)]
  const alone = await aloneAll(bench, [a, b], 6)
  const batcher = bench.batcher()
  const order: string[] = []
  const follow = async (kind: 'f16' | 'f32', tokens: number[]): Promise<Float32Array[]> => {
    const own = query(batcher, kind)
    const all = [(await batcher.advance(own.sequence, tokens)).slice()]
    while (all.length <= 6) {
      all.push((await batcher.advance(own.sequence, [argmax(all.at(-1)!)])).slice())
      order.push(kind)
    }
    batcher.close(own.sequence)
    return all
  }
  assert.deepEqual(await Promise.all([follow('f16', a), follow('f32', b)]), alone)
  // Neither waits until the other has ended.
  assert.ok(order.indexOf('f32') < order.lastIndexOf('f16') && order.indexOf('f16') < order.lastIndexOf('f32'), order.join(' '))
  assert.ok(bench.dispatcher.rows.every((rows) => rows === 1 || rows === 20))
})

test('an expert without host fails the queries that need it and no other', async (t) => {
  const bench = await open(t)
  const prompts = Array.from({ length: 6 }, (_, i) => prompt(4, i + 3))
  const alone = await aloneAll(bench, prompts, 8)
  // Refuse an expert of layer 1 that some of the queries come to use, not all.
  const uses = new Map<number, Set<number>>()
  let current = 0
  bench.dispatcher.fault = ({ layer, picks }) => {
    if (layer === 1) for (const expert of picks.pickExpert) uses.set(expert, (uses.get(expert) ?? new Set()).add(current))
    return null
  }
  for (; current < prompts.length; current++) await aloneAll(bench, [prompts[current]!], 8)
  const [missing, users] = [...uses].find(([, set]) => set.size > 0 && set.size < prompts.length) ?? []
  assert.ok(missing !== undefined && users !== undefined)
  bench.dispatcher.fault = ({ layer, picks }) =>
    layer === 1 && picks.pickExpert.includes(missing) ? new NoRouteError(1, missing, 'nobody announces it') : null
  const batcher = bench.batcher()
  const ends = await Promise.allSettled(prompts.map((tokens) => generate(batcher, query(batcher), tokens, 8)))
  for (const [i, end] of ends.entries()) {
    if (users.has(i)) {
      assert.equal(end.status, 'rejected')
      assert.equal((end.reason as Error).name, 'NoRouteError')
    } else {
      assert.deepEqual(end.status === 'fulfilled' ? end.value : end.reason, alone[i])
    }
  }
  bench.dispatcher.fault = null
  assert.deepEqual(await generate(batcher, query(batcher), prompts[0]!, 8), alone[0])
})

test('a query that is cancelled in the middle of a pass ends at once, and the others go on', async (t) => {
  const bench = await open(t)
  const prompts = [prompt(9, 1), prompt(9, 2), prompt(9, 3)]
  const alone = await aloneAll(bench, prompts, 8)
  const batcher = bench.batcher()
  const queries = prompts.map(() => query(batcher))
  const reason = new Error('the client left')
  let passes = 0
  bench.dispatcher.fault = ({ layer }) => {
    if (layer === 1 && ++passes === 3) queries[1]!.scope.cancel(reason)
    return null
  }
  const ends = await Promise.allSettled(prompts.map((tokens, i) => generate(batcher, queries[i]!, tokens, 8)))
  assert.deepEqual(ends[1], { status: 'rejected', reason })
  for (const i of [0, 2]) assert.deepEqual(ends[i], { status: 'fulfilled', value: alone[i] })
  // All of a pass at once.
  const last = [query(batcher), query(batcher)]
  bench.dispatcher.fault = ({ layer }) => {
    if (layer === 1) for (const { scope } of last) scope.cancel(reason)
    return null
  }
  const both = await Promise.allSettled(last.map((own, i) => generate(batcher, own, prompts[i]!, 8)))
  assert.deepEqual(both, [
    { status: 'rejected', reason },
    { status: 'rejected', reason },
  ])
  bench.dispatcher.fault = null
  assert.deepEqual(await generate(batcher, query(batcher), prompts[2]!, 8), alone[2])
})

test('a long prompt comes in pieces between the tokens of others', async (t) => {
  const bench = await open(t)
  const long = prompt(CONTEXT - 10, 9)
  const [alone] = await aloneAll(bench, [long], 2)
  const batcher = bench.batcher()
  const decoding = query(batcher)
  let logits = await batcher.advance(decoding.sequence, prompt(3, 1))
  let isPending = true
  const prefill = generate(batcher, query(batcher), long, 2).finally(() => (isPending = false))
  let between = 0
  bench.dispatcher.rows.length = 0
  while (isPending) {
    logits = await batcher.advance(decoding.sequence, [argmax(logits)])
    between++
  }
  assert.deepEqual(await prefill, alone)
  assert.ok(between >= 3, `${between} tokens while the prompt was computed`)
  // Small at first, since nothing is known of the machine.
  assert.equal(bench.dispatcher.rows[0], 8 + 1)
  batcher.close(decoding.sequence)
})

test('a beginning that was computed before is not computed again, and nothing shows of it but the count', async (t) => {
  const bench = await open(t)
  const shared = prompt(90, 4)
  const questions = [1, 2, 3].map((seed) => [...shared, ...prompt(6, seed)])
  const alone = await aloneAll(bench, questions, 6)
  const batcher = bench.batcher()
  const rows = (): number => bench.dispatcher.rows.splice(0).reduce((sum, count) => sum + count, 0)
  rows()
  for (const [i, tokens] of questions.entries()) {
    const own = query(batcher)
    assert.deepEqual(await generate(batcher, own, tokens, 6), alone[i])
    const expected = i === 0 ? 0 : 90
    assert.equal(own.tally.report().cachedTokens, expected)
    assert.equal(rows(), tokens.length - expected + 6)
  }
  // An answer that is asked to go on: everything but its last token is there.
  const again = query(batcher)
  const whole = [...questions[2]!, ...alone[2]!.slice(0, 6).map(argmax)]
  assert.deepEqual(await generate(batcher, again, whole, 0), [alone[2]![6]])
  assert.equal(again.tally.report().cachedTokens, whole.length - 1)
  // Rows that travelled otherwise are not mixed in.
  const otherKind = query(batcher, 'f32')
  await generate(batcher, otherKind, questions[0]!, 1)
  assert.equal(otherKind.tally.report().cachedTokens, 0)
})

test('queries that come at once compute what they begin with together only once', async (t) => {
  const bench = await open(t)
  const shared = prompt(90, 4)
  const questions = [1, 2, 3, 4].map((seed) => [...shared, ...prompt(6, seed)])
  const alone = await aloneAll(bench, questions, 3)
  const batcher = bench.batcher()
  bench.dispatcher.rows.length = 0
  const together = await Promise.all(questions.map((tokens) => generate(batcher, query(batcher), tokens, 3)))
  assert.deepEqual(together, alone)
  const rows = bench.dispatcher.rows.reduce((sum, count) => sum + count, 0)
  assert.equal(rows, 90 + 4 * (6 + 3))
})

test('queries that do not fit into the memory together take turns, and end with the same answers', async (t) => {
  // Room for one and a half of five.
  const bench = await open(t, 3)
  const prompts = [20, 60, 40, 63, 10].map((length, i) => prompt(length, i))
  const alone = await aloneAll(bench, prompts, 50)
  const batcher = bench.batcher()
  let most = 0
  bench.dispatcher.fault = () => {
    most = Math.max(most, bench.trunk.kv.usedBytes)
    return null
  }
  const together = await Promise.all(prompts.map((tokens) => generate(batcher, query(batcher), tokens, 50)))
  assert.deepEqual(together, alone)
  assert.ok(most > 0 && most <= bench.trunk.kv.limitBytes)
})

test('memory that other models hold is said to be the reason', async (t) => {
  const bench = await open(t, 3)
  const cache = bench.other.createCache()
  cache.reserve(2 * BLOCK)
  const batcher = bench.batcher()
  await assert.rejects(generate(batcher, query(batcher), prompt(BLOCK + 1, 1), 1), {
    name: 'BusyError',
    message: /key-value memory is full.*raise --kv-memory or use --kv q8.*when the other queries have ended/,
  })
  assert.equal((await generate(batcher, query(batcher), prompt(10, 1), 1)).length, 2)
  cache.close()
  assert.equal((await generate(batcher, query(batcher), prompt(BLOCK + 1, 1), 1)).length, 2)
})
