import { cacheShape, windowOf } from '../model/model-config.ts'
import type { ModelConfig } from '../model/model-config.ts'

/** How keys and values are stored: `q16` and `q8` are whole numbers of 16 and 8 bits with an f32 scale per token and head. */
export const KV_TYPES = ['f32', 'q16', 'q8'] as const
export type KvType = (typeof KV_TYPES)[number]

/** Tokens of one block of the key-value memory. A multiple of the widest vector unit, so that a row's sums add up alike wherever it stands. */
export const BLOCK_TOKENS = 64

/** The attention of one layer: what it keeps of a token, and how it reads it. */
export interface AttentionShape {
  readonly heads: number
  /** Divides `heads`. */
  readonly kvHeads: number
  /** Numbers per key (and query) and per value of one head. */
  readonly keyWidth: number
  readonly valueWidth: number
  /** Whether the keys are the values too, and kept once. */
  readonly valuesAreKeys: boolean
  /** Factor of the scores. */
  readonly scale: number
  /** Tokens that a token sees, itself included; null for all before it. */
  readonly window: number | null
  /** Whether each head has a learnt score that takes its share of the softmax and gives nothing. */
  readonly sinks: boolean
}

export function attentionShape(config: ModelConfig, layer: number): AttentionShape {
  const { attention } = config
  const { heads, scale } = attention
  const cache = cacheShape(config)
  return {
    heads,
    kvHeads: cache.heads,
    keyWidth: cache.width,
    valueWidth: cache.width,
    valuesAreKeys: !cache.separateValues,
    scale,
    window: windowOf(config, layer),
    sinks: attention.kind === 'grouped' && attention.sinks,
  }
}

/** Bytes of a stored number. */
export const KV_TYPE_BYTES: Readonly<Record<KvType, number>> = Object.freeze({ f32: 4, q16: 2, q8: 1 })
const SCALE_BYTES = 4

/** Bytes of one token's keys and values in all layers. */
export function kvTokenBytes(config: ModelConfig, type: KvType): number {
  const { heads, width, separateValues } = cacheShape(config)
  const perVector = width * KV_TYPE_BYTES[type] + (type === 'f32' ? 0 : SCALE_BYTES)
  return config.layers * heads * perVector * (separateValues ? 2 : 1)
}
