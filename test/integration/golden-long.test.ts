/** Positions in the thousands against transformers (test/golden/long.json): prompts in pieces, windows, scaled rotary embeddings. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { test } from 'node:test'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { packCheckpoint } from '../../node/model/pack.ts'
import { changedCheckpoint, goldenCheckpoint } from '../helpers/checkpoint.ts'
import { openLocally, runLayers } from '../helpers/local-generation.ts'
import type { LocalModel } from '../helpers/local-generation.ts'
import { engineForTest } from '../helpers/packed-model.ts'
import { temporaryDir } from '../helpers/temporary-dir.ts'
import { relativeError } from './golden-suite.ts'

const TOLERANCE = 1e-3
/** Between two ways through the same engine. */
const OWN_TOLERANCE = 1e-4
/** No divisor or multiple of a block of keys and values. */
const PIECE = 700
/** Tokens that come one by one at the end. */
const SINGLE = 150

interface LongCase {
  readonly title: string
  readonly checkpoint: string
  readonly config: Readonly<Record<string, unknown>>
  readonly tokens: number
  /** Positions of which logits are kept. */
  readonly rows: readonly number[]
  readonly logits: readonly (readonly number[])[]
}

const { cases } = JSON.parse(readFileSync(new URL('../golden/long.json', import.meta.url), 'utf8')) as { cases: readonly LongCase[] }

/** As in make-long.py.txt. */
function tokensOf(count: number, vocabSize: number): number[] {
  let state = 12_345
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff
    return 2 + ((state >>> 8) % (vocabSize - 2))
  })
}

/** Logits at some positions of a sequence that is fed in pieces of these lengths. */
async function logitsAt(
  model: LocalModel,
  ids: readonly number[],
  pieces: readonly number[],
  rows: readonly number[],
): Promise<Float32Array[]> {
  const { vocabSize } = model.trunk.config
  const cache = model.trunk.createCache(ids.length)
  const found = new Map<number, Float32Array>()
  let first = 0
  try {
    for (const length of pieces) {
      const pass = model.trunk.beginPass([{ cache, tokens: ids.slice(first, first + length) }])
      try {
        await runLayers(model, pass)
        const wanted = rows.filter((row) => row >= first && row < first + length)
        const logits = wanted.length === 0 ? null : await pass.logits(wanted.map((row) => row - first))
        for (const [i, row] of wanted.entries()) found.set(row, logits!.slice(i * vocabSize, (i + 1) * vocabSize))
        pass.commit()
      } finally {
        pass.close()
      }
      first += length
    }
  } finally {
    cache.close()
  }
  return rows.map((row) => found.get(row)!)
}

for (const { title, checkpoint, config, tokens, rows, logits: expected } of cases) {
  test(title, { timeout: 120_000 }, async (t) => {
    const dir = await changedCheckpoint(t, goldenCheckpoint(checkpoint), config)
    const store = createBlobStore({ dir: await temporaryDir(t) })
    const model = await packCheckpoint({ dir, store, quant: 'f32', tokenizer: 'optional', name: 'long' })
    const local = await openLocally(engineForTest(t), model)
    const ids = tokensOf(tokens, local.trunk.config.vocabSize)
    const whole = Array.from({ length: Math.ceil(tokens / PIECE) }, (_, i) => Math.min(PIECE, tokens - i * PIECE))
    const found = await logitsAt(local, ids, whole, rows)
    const worst = Math.max(...rows.map((_, i) => relativeError(found[i]!, expected[i]!)))
    t.diagnostic(`largest relative error of a logit ${worst.toExponential(1)}`)
    assert.ok(worst <= TOLERANCE)

    const last = rows.slice(-2)
    const singly = await logitsAt(local, ids, [tokens - SINGLE, ...Array.from({ length: SINGLE }, () => 1)], last)
    const apart = Math.max(...last.map((row, i) => relativeError(singly[i]!, found[rows.indexOf(row)]!)))
    t.diagnostic(`in pieces and one by one: ${apart.toExponential(1)}`)
    assert.ok(apart <= OWN_TOLERANCE)
  })
}
