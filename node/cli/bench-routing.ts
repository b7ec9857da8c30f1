import { join } from 'node:path'
import { Command } from 'commander'
import { defaultDataDir } from '../config.ts'
import { recordTrace } from '../driver/routing-trace.ts'
import { createEngine } from '../engine/onnx-engine.ts'
import { ConfigError } from '../errors.ts'
import { createBlobStore } from '../model/blob-store.ts'
import { EMBEDDED_NAME, ensureEmbeddedModel } from '../model/embedded.ts'
import { openModel } from '../model/library.ts'
import { hitRate, POLICIES, segmentCacheHitRate, segmentRoutingPerformance } from '../router/cache-analysis.ts'
import type { RoutingTrace } from '../router/routing-trace.ts'
import { table } from './table.ts'

const PROMPTS = Object.freeze([
  'Once upon a time',
  'The little girl went to the park and',
  'One day, a big dog',
  'There was a king who lived in a castle by the sea.',
  'It was a cold winter day, and the children',
])
/** Cache sizes, in experts per layer as multiples of those that a token uses. */
const SIZES = Object.freeze([1, 2, 3, 4])
/** Tokens of a segment, as in arXiv 2505.16056. */
const SEGMENTS = Object.freeze([4, 16, 64, 256])
const SCH_SEGMENT = 16

/** `skein bench routing`: how well a model's experts can be cached. */
export function routingCommand(): Command {
  return new Command('routing')
    .description("run a model on this machine, record its routers' choices, and print how well its experts can be cached")
    .option('--model <name>', 'packed model', EMBEDDED_NAME)
    .option('--tokens <n>', 'tokens generated after each of five prompts', '150')
    .option('--seed <n>', 'of the sampling', '1')
    .option('--data <dir>', 'data directory (default: ~/.skein)')
    .option('--store <dir>', 'blob store (default: <data>/blobs)')
    .option('--json', 'print the figures as JSON')
    .action(async (options: { model: string; tokens: string; seed: string; data?: string; store?: string; json?: true }) => {
      const dataDir = options.data ?? process.env['SKEIN_DATA'] ?? defaultDataDir()
      const store = createBlobStore({ dir: options.store ?? process.env['SKEIN_STORE'] ?? join(dataDir, 'blobs') })
      const init = { prompts: PROMPTS, maxTokens: wholeNumber('--tokens', options.tokens), seed: wholeNumber('--seed', options.seed) }
      const model = options.model === EMBEDDED_NAME ? await ensureEmbeddedModel(store) : await openModel(store, options.model)
      const engine = createEngine({ threads: 1 })
      try {
        const figures = routingFigures(await recordTrace(engine, model, init))
        console.log(
          options.json === true ? JSON.stringify({ model: model.id, ...figures }, null, 2) : describeFigures(options.model, figures),
        )
      } finally {
        await engine.close()
      }
    })
}

/** What {@link routingCommand} prints. */
export interface RoutingFigures {
  readonly tokens: number
  readonly layers: number
  readonly experts: number
  readonly expertsPerToken: number
  /** By cache size. */
  readonly caches: readonly {
    readonly capacity: number
    readonly chance: number
    readonly sch: number
    readonly policies: Readonly<Record<string, { readonly hits: number; readonly allHits: number }>>
  }[]
  /** By length of the segment; null where no sequence is as long. */
  readonly srp: readonly { readonly length: number; readonly f1: number | null }[]
}

/** The figures of a trace. */
export function routingFigures(trace: RoutingTrace): RoutingFigures {
  const { layers, experts, expertsPerToken } = trace
  const lengths = trace.sequences.map(([first]) => (first?.length ?? 0) / expertsPerToken)
  const sizes = SIZES.map((size) => size * expertsPerToken).filter((capacity) => capacity <= experts)
  return {
    tokens: lengths.reduce((sum, length) => sum + length, 0),
    layers,
    experts,
    expertsPerToken,
    caches: sizes.map((capacity) => ({
      capacity,
      chance: capacity / experts,
      sch: segmentCacheHitRate(trace, SCH_SEGMENT, capacity),
      policies: Object.fromEntries(POLICIES.map((policy) => [policy, hitRate(trace, policy, capacity)])),
    })),
    srp: SEGMENTS.map((length) => ({ length, f1: Math.max(...lengths) < length ? null : segmentRoutingPerformance(trace, length) })),
  }
}

function describeFigures(name: string, { tokens, layers, experts, expertsPerToken, caches, srp }: RoutingFigures): string {
  const percent = (value: number): string => `${(value * 100).toFixed(1)} %`
  const row = (title: string, read: (cache: RoutingFigures['caches'][number]) => number): string[] => [
    title,
    ...caches.map((cache) => percent(read(cache))),
  ]
  const rows = [
    row('by chance', ({ chance }) => chance),
    ...POLICIES.flatMap((policy) => [
      row(`${policy} hit rate`, ({ policies }) => policies[policy]!.hits),
      row(`${policy} P(all ${expertsPerToken} local)`, ({ policies }) => policies[policy]!.allHits),
    ]),
    row(`SCH, segments of ${SCH_SEGMENT}`, ({ sch }) => sch),
  ]
  return [
    `${name}: ${tokens} tokens, ${layers} layers of ${experts} experts, ${expertsPerToken} per token`,
    '',
    table(['EXPERTS CACHED PER LAYER', ...caches.map(({ capacity }) => String(capacity))], rows),
    '',
    table(
      ['TOKENS OF A SEGMENT', ...srp.map(({ length }) => String(length))],
      [['SRP (best F1 of a fixed group)', ...srp.map(({ f1 }) => (f1 === null ? '-' : f1.toFixed(2)))]],
    ),
  ].join('\n')
}

function wholeNumber(flag: string, text: string): number {
  const value = Number(text)
  if (Number.isSafeInteger(value) && value >= 1) return value
  throw new ConfigError(`${flag} ${text}: use a whole number of at least 1`)
}
