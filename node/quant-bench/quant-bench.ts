import { createBlobStore } from '../model/blob-store.ts'
import type { KvType } from '../engine/kv-shape.ts'
import { KV_DEFAULTS } from '../engine/engine.ts'
import { createEngine } from '../engine/onnx-engine.ts'
import type { QuantKind } from '../model/manifest.ts'
import { packCheckpoint } from '../model/pack.ts'
import type { ModelPackage } from '../model/package.ts'
import { openTokenizer } from '../model/tokenizer.ts'
import { Divergence } from './divergence.ts'
import type { DivergenceReport } from './divergence.ts'
import { LocalModel } from './local-model.ts'
import { ownWriting, textTokens } from './sample-text.ts'

/** One way to store weights, and keys and values. */
export interface Variant {
  readonly quant: QuantKind
  /** Weights per scale; 0 for f32 and f16. */
  readonly block: number
  readonly trunk?: 'q8'
  readonly kv: KvType
}

export interface QuantBenchInit {
  /** Folder of a checkpoint, or path of a GGUF file. */
  readonly source: string
  /** Folder for the packed variants. */
  readonly workDir: string
  readonly variants: readonly Variant[]
  /** Held-out text; null for what the f32 model itself writes. */
  readonly text: string | null
  readonly tokens: number
  readonly seed: number
  readonly threads: number
  readonly onStep?: (what: string) => void
}

export interface VariantReport extends DivergenceReport {
  readonly variant: Variant
  /** Of all weights. */
  readonly bytes: number
}

/** Tokens of one sequence: long enough to use its context, and many sequences are better than few. */
const WINDOW = 256
/** Tokens whose logits of both models are in memory at a time. */
const CHUNK = 64

/** Compares variants of a model with its f32 weights, on the same text. Throws `ModelError` and `InvalidRequestError`. */
export async function quantBench(init: QuantBenchInit): Promise<VariantReport[]> {
  const { onStep = () => {}, threads } = init
  const store = createBlobStore({ dir: init.workDir })
  const pack = (variant: Variant): Promise<ModelPackage> => {
    const { quant, block, trunk } = variant
    return packCheckpoint({
      dir: init.source,
      store,
      quant,
      name: ['bench', quant, block, ...(trunk === undefined ? [] : [trunk])].join('-'),
      tokenizer: 'optional',
      ...(block === 0 ? {} : { block }),
      ...(trunk === undefined ? {} : { trunk }),
    })
  }
  const withModel = async <T>(variant: Variant, use: (model: LocalModel, packed: ModelPackage) => Promise<T>): Promise<T> => {
    const packed = await pack(variant)
    const engine = createEngine({ threads, kv: { ...KV_DEFAULTS, type: variant.kv } })
    try {
      return await use(await LocalModel.open(engine, packed), packed)
    } finally {
      await engine.close()
    }
  }
  onStep('packing f32')
  return withModel({ quant: 'f32', block: 0, kv: 'f32' }, async (reference, original) => {
    onStep(init.text === null ? 'letting the f32 model write' : 'reading the text')
    const shape = { tokens: init.tokens, window: Math.min(WINDOW, reference.trunk.config.maxContext) }
    const sequences =
      init.text === null
        ? await ownWriting(reference, { ...shape, seed: init.seed })
        : textTokens(await openTokenizer(original), init.text, shape)
    const reports: VariantReport[] = []
    for (const variant of init.variants) {
      onStep(`comparing ${variantName(variant)}`)
      reports.push(
        await withModel(variant, async (model, packed) => ({
          variant,
          bytes: packed.manifest.blobs.reduce((sum, blob) => sum + (blob.role === 'tokenizer' ? 0 : blob.bytes), 0),
          ...(await compare(reference, model, sequences)),
        })),
      )
    }
    return reports
  })
}

/** As in `q4:64+trunk-q8+kv-q8`. */
export function variantName({ quant, block, trunk, kv }: Variant): string {
  const parts = [block === 0 ? quant : `${quant}:${block}`]
  if (trunk !== undefined) parts.push(`trunk-${trunk}`)
  if (kv !== 'f32') parts.push(`kv-${kv}`)
  return parts.join('+')
}

async function compare(reference: LocalModel, model: LocalModel, sequences: readonly number[][]): Promise<DivergenceReport> {
  const divergence = new Divergence()
  const { vocabSize } = reference.trunk.config
  for (const tokens of sequences) {
    const caches = [reference.trunk.createCache(tokens.length), model.trunk.createCache(tokens.length)] as const
    try {
      // Nothing follows the last token.
      for (let from = 0; from < tokens.length - 1; from += CHUNK) {
        const chunk = tokens.slice(from, Math.min(from + CHUNK, tokens.length - 1))
        const expected = await reference.feed([{ cache: caches[0], tokens: chunk }])
        const actual = await model.feed([{ cache: caches[1], tokens: chunk }])
        for (let row = 0; row < chunk.length; row++) {
          const [start, end] = [row * vocabSize, (row + 1) * vocabSize]
          divergence.add(expected.subarray(start, end), actual.subarray(start, end), tokens[from + row + 1]!)
        }
      }
    } finally {
      for (const cache of caches) cache.close()
    }
  }
  return divergence.report()
}
