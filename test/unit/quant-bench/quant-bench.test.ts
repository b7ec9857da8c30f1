import assert from 'node:assert/strict'
import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { test } from 'node:test'
import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { parseVariant } from '../../../node/cli/bench.ts'
import { EMBEDDED_CHECKPOINT } from '../../../node/model/embedded.ts'
import { quantBench, variantName } from '../../../node/quant-bench/quant-bench.ts'
import { temporaryDir } from '../../helpers/temporary-dir.ts'

const MAIN = fileURLToPath(new URL('../../../node/main.ts', import.meta.url))

test('variants are read as they are written', () => {
  for (const name of [
    'f32',
    'f16',
    'q8:16',
    'q4:32',
    'q4:64+trunk-q8',
    'q8:128+kv-q8',
    'q4:64+trunk-q8+kv-q8',
    'f32+kv-q16',
    'f32+kv-q8',
  ]) {
    assert.equal(variantName(parseVariant(name)), name)
  }
  assert.equal(variantName(parseVariant(' q4 ')), 'q4:128')
  for (const name of ['', 'q5', 'q4:48', 'f16:64', 'q8+trunk-q8', 'f32+trunk-q8', 'q4+kv-q4', 'q4:', 'q4+kv-q8+trunk-q8']) {
    assert.throws(() => parseVariant(name), { name: 'ConfigError', message: /use f32, f16, q8 or q4/ })
  }
})

test('the more bits, the less the embedded model differs from its own weights; 4 bits with a trunk of 8 add less than 3 % of perplexity', async (t) => {
  const variants = ['f32', 'f16', 'q8', 'q4+trunk-q8', 'q4', 'f32+kv-q8'].map(parseVariant)
  const workDir = await temporaryDir(t)
  const reports = await quantBench({ source: EMBEDDED_CHECKPOINT, workDir, variants, text: null, tokens: 384, seed: 3, threads: 1 })
  const kl = reports.map(({ klNats }) => klNats)
  for (const { variant, klNats, increase, increaseError, bytes } of reports) {
    t.diagnostic(
      `${variantName(variant)}: ${klNats.toExponential(1)} nats, ${(100 * increase).toFixed(2)} ± ${(100 * increaseError).toFixed(2)} %, ${bytes} bytes`,
    )
  }
  assert.ok(kl[0] === 0 && kl[1]! < 1e-6 && kl[2]! < 0.005 && kl[3]! < 0.03 && kl[4]! < 0.08 && kl[5]! < 0.005, kl.join(' '))
  assert.ok(kl[2]! < kl[3]! && kl[3]! < kl[4]!, kl.join(' '))
  // The divergence is what perplexity rises by on the model's own writing, free of the chance of this sample.
  assert.ok(Math.expm1(kl[3]!) < 0.03)
  const sizes = reports.map(({ bytes }) => bytes)
  assert.ok(sizes[0]! > sizes[1]! && sizes[1]! > sizes[2]! && sizes[2]! > sizes[3]! && sizes[3]! > sizes[4]!, sizes.join(' '))
})

test('skein bench quant prints a table for a text and writes JSON', async (t) => {
  const dir = await temporaryDir(t)
  const text = join(dir, 'text.txt')
  await writeFile(text, 'Once upon a time there was a little girl who lived in a small house near the forest. '.repeat(3))
  const json = join(dir, 'out.json')
  const run = promisify(execFile)
  const args = [MAIN, 'bench', 'quant', 'ember', '--text', text, '--tokens', '60', '--variants', 'q8', '--json', json]
  const { stdout } = await run(process.execPath, args)
  assert.match(stdout, /^ember on \d+ tokens of .*text\.txt; perplexity with f32 weights [\d.]+\nWEIGHTS +SIZE +LOGIT ERROR/)
  assert.match(stdout, /\nq8:128 .* MB .* % ± .* %\n$/)
  const report = JSON.parse(await readFile(json, 'utf8')) as { variants: { klNats: number }[] }
  assert.ok(report.variants[0]!.klNats > 0)
  await assert.rejects(run(process.execPath, [MAIN, 'bench', 'quant', 'ember', '--text', join(dir, 'none')]), /--text .* can't be read/)
  await assert.rejects(run(process.execPath, [MAIN, 'bench', 'quant', 'ember', '--tokens', '1']), /--tokens 1: use a whole number/)
  await assert.rejects(run(process.execPath, [MAIN, 'bench', 'quant', join(dir, 'none')]), /skein: .*none/)
})
