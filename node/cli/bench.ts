import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { Command } from 'commander'
import type { KvType } from '../engine/kv-shape.ts'
import { ConfigError } from '../errors.ts'
import { EMBEDDED_CHECKPOINT, EMBEDDED_NAME } from '../model/embedded.ts'
import { BLOCKS } from '../model/layout.ts'
import type { QuantKind } from '../model/manifest.ts'
import { DEFAULTS } from '../model/pack.ts'
import { quantBench, variantName } from '../quant-bench/quant-bench.ts'
import type { Variant, VariantReport } from '../quant-bench/quant-bench.ts'
import { routingCommand } from './bench-routing.ts'
import { table } from './table.ts'

const DEFAULT_VARIANTS = 'f16,q8,q4:32,q4:64,q4:128,q4:64+trunk-q8,q4+trunk-q8,f32+kv-q16,f32+kv-q8'
const MAX_TOKENS = 1_000_000

interface QuantFlags {
  readonly text?: string
  readonly tokens: string
  readonly seed: string
  readonly variants: string
  readonly json?: string
}

/** `skein bench quant <model>`: what quantisation costs, measured on the model itself. */
export function benchCommand(): Command {
  const quant = new Command('quant')
    .description('compare quantised variants of a model with its f32 weights: error of logits, divergence, perplexity')
    .argument('<model>', `folder of a checkpoint, path of a GGUF file, or ${EMBEDDED_NAME}`)
    .option('--text <file>', 'text to compare on (default: what the f32 model itself writes)')
    .option('--tokens <n>', 'tokens to compare on', '2048')
    .option('--seed <n>', "of the model's own writing", '1')
    .option(
      '--variants <list>',
      'f16, q8 or q4, with :block for another than 128, +trunk-q8 for a trunk in 8 bits, +kv-q16 and +kv-q8 for keys and values; pack makes q4+trunk-q8 unless told otherwise',
      DEFAULT_VARIANTS,
    )
    .option('--json <file>', 'also write the figures there')
    .action(runQuant)
  return new Command('bench').description('measure a model').addCommand(quant).addCommand(routingCommand())
}

async function runQuant(model: string, flags: QuantFlags): Promise<void> {
  const variants = flags.variants.split(',').map(parseVariant)
  const tokens = wholeNumber(flags.tokens, '--tokens', 2, MAX_TOKENS)
  const seed = wholeNumber(flags.seed, '--seed', 0, 2 ** 31)
  const text = flags.text === undefined ? null : await readText(flags.text)
  const workDir = await mkdtemp(join(tmpdir(), 'skein-quant-'))
  try {
    const reports = await quantBench({
      source: model === EMBEDDED_NAME ? EMBEDDED_CHECKPOINT : model,
      workDir,
      variants,
      text,
      tokens,
      seed,
      threads: availableParallelism(),
      ...(process.stderr.isTTY ? { onStep: (what) => process.stderr.write(`\r\u001B[K${what} …`) } : {}),
    })
    if (process.stderr.isTTY) process.stderr.write('\r\u001B[K')
    process.stdout.write(`${summary(model, flags, reports)}\n`)
    if (flags.json !== undefined) {
      await writeFile(flags.json, `${JSON.stringify({ model, text: flags.text ?? null, seed, variants: reports }, null, 2)}\n`)
    }
  } finally {
    await rm(workDir, { recursive: true, force: true, maxRetries: 5 })
  }
}

/** `q4:32+trunk-q8+kv-q8`. Throws `ConfigError`. */
export function parseVariant(name: string): Variant {
  const match = /^(f32|f16|q8|q4)(?::([0-9]+))?(\+trunk-q8)?(?:\+kv-(q16|q8))?$/.exec(name.trim())
  const quant = match?.[1] as QuantKind | undefined
  const inBlocks = quant === 'q8' || quant === 'q4'
  const block = inBlocks ? Number(match?.[2] ?? DEFAULTS.block) : 0
  const isPossible = inBlocks ? BLOCKS.includes(block) : match?.[2] === undefined
  if (quant === undefined || !isPossible || (match?.[3] !== undefined && quant !== 'q4')) {
    throw new ConfigError(
      `--variants ${name}: use f32, f16, q8 or q4, the latter two with :16, :32, :64 or :128; q4 also with +trunk-q8, and all with +kv-q16 or +kv-q8`,
    )
  }
  return { quant, block, kv: (match?.[4] as KvType | undefined) ?? 'f32', ...(match?.[3] === undefined ? {} : { trunk: 'q8' as const }) }
}

function wholeNumber(value: string, flag: string, low: number, high: number): number {
  const number = Number(value)
  if (value.trim() !== '' && Number.isInteger(number) && number >= low && number <= high) return number
  throw new ConfigError(`${flag} ${value}: use a whole number from ${low} to ${high}`)
}

async function readText(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    throw new ConfigError(`--text ${path} can't be read: ${(error as Error).message}`, { cause: error })
  }
}

function summary(model: string, flags: QuantFlags, reports: readonly VariantReport[]): string {
  const percent = (share: number, digits: number): string => `${(100 * share).toFixed(digits)} %`
  const [first] = reports
  const rows = reports.map((report) => [
    variantName(report.variant),
    `${(report.bytes / 1e6).toFixed(1)} MB`,
    report.logitError.toExponential(1),
    report.klNats.toExponential(1),
    percent(report.sameBest, 1),
    report.perplexity.toFixed(4),
    `${report.increase >= 0 ? '+' : ''}${percent(report.increase, 2)} ± ${percent(report.increaseError, 2)}`,
  ])
  const what = flags.text ?? `what it writes itself, seed ${flags.seed}`
  return [
    `${model} on ${first!.tokens} tokens of ${what}; perplexity with f32 weights ${first!.referencePerplexity.toFixed(4)}`,
    table(['WEIGHTS', 'SIZE', 'LOGIT ERROR', 'KL NATS', 'SAME BEST', 'PERPLEXITY', 'INCREASE'], rows),
  ].join('\n')
}
