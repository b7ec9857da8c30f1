import { z } from 'zod'

import { ARCHITECTURES } from './model-config.ts'
import type { ModelConfig } from './model-config.ts'
import { MODEL_LIMITS } from './model-limits.ts'

const count = (max: number) => z.int().min(1).max(max)
const index = (size: number) =>
  z
    .int()
    .min(0)
    .max(size - 1)
const positive = z.number().positive()
const layerNumbers = z.array(index(MODEL_LIMITS.layers)).min(1).max(MODEL_LIMITS.layers)

const attention = z.discriminatedUnion('kind', [
  z.object({
    kind: z.literal('grouped'),
    heads: count(MODEL_LIMITS.heads),
    kvHeads: count(MODEL_LIMITS.heads),
    headDim: count(MODEL_LIMITS.headDim),
    qkNorm: z.enum(['none', 'head', 'full']),
    clipQkv: positive.nullable(),
    bias: z.enum(['none', 'qkv', 'qkvo']),
    sinks: z.boolean(),
    scale: positive,
  }),
  z.object({
    kind: z.literal('latent'),
    heads: count(MODEL_LIMITS.heads),
    queryRank: count(MODEL_LIMITS.hiddenSize).nullable(),
    latentRank: count(MODEL_LIMITS.hiddenSize),
    plainDim: count(MODEL_LIMITS.headDim),
    valueDim: count(MODEL_LIMITS.headDim),
    scale: positive,
  }),
])

const scaling = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('default') }),
  z.object({ kind: z.literal('linear'), factor: positive }),
  z.object({ kind: z.literal('dynamic'), factor: positive, context: count(MODEL_LIMITS.maxContext) }),
  z.object({
    kind: z.literal('yarn'),
    factor: positive,
    context: count(MODEL_LIMITS.maxContext),
    betaFast: positive,
    betaSlow: positive,
    truncate: z.boolean(),
    magnitude: positive,
  }),
  z.object({
    kind: z.literal('llama3'),
    factor: positive,
    context: count(MODEL_LIMITS.maxContext),
    lowFactor: positive,
    highFactor: positive,
  }),
])

/** The configuration within a manifest from outside. */
export const modelConfig = z.object({
  architecture: z.enum(ARCHITECTURES),
  hiddenSize: count(MODEL_LIMITS.hiddenSize),
  layers: count(MODEL_LIMITS.layers),
  vocabSize: count(MODEL_LIMITS.vocabSize),
  maxContext: count(MODEL_LIMITS.maxContext),
  normEpsilon: positive,
  attention,
  rope: z.object({ theta: positive, dim: count(MODEL_LIMITS.headDim).multipleOf(2), interleaved: z.boolean(), scaling }),
  sliding: z.object({ window: count(MODEL_LIMITS.maxContext), layers: layerNumbers }).nullable(),
  dense: z.object({ size: count(MODEL_LIMITS.expertSize), layers: layerNumbers }).nullable(),
  shared: z.object({ size: count(MODEL_LIMITS.expertSize), gated: z.boolean() }).nullable(),
  experts: count(MODEL_LIMITS.experts),
  expertsPerToken: count(MODEL_LIMITS.expertsPerToken),
  expertSize: count(MODEL_LIMITS.expertSize),
  expertActivation: z.discriminatedUnion('kind', [
    z.object({ kind: z.literal('swiglu') }),
    z.object({ kind: z.literal('clamped-swiglu'), alpha: positive, limit: positive }),
  ]),
  expertBias: z.boolean(),
  router: z.object({
    scoring: z.enum(['softmax', 'sigmoid']),
    bias: z.enum(['none', 'logits', 'choice']),
    groups: z
      .object({ count: count(MODEL_LIMITS.experts), chosen: count(MODEL_LIMITS.experts), score: z.enum(['best', 'best-two']) })
      .nullable(),
    normalise: z.boolean(),
    scale: positive,
  }),
  scales: z.object({ embedding: positive, residual: positive, logits: positive }),
  eosTokenIds: z.array(index(MODEL_LIMITS.vocabSize)).max(MODEL_LIMITS.eosTokenIds),
})

/** What does not fit together in a configuration, or undefined. */
export function configProblem(config: ModelConfig): string | undefined {
  const { attention: heads, rope, experts, expertsPerToken, router } = config
  if (heads.kind === 'grouped' && heads.heads % heads.kvHeads !== 0) {
    return `${heads.kvHeads} key-value heads do not divide ${heads.heads} heads`
  }
  if (heads.kind === 'grouped' && rope.dim > heads.headDim) return `${rope.dim} rotated numbers of a head of ${heads.headDim}`
  if (expertsPerToken > experts) return `${expertsPerToken} experts per token of only ${experts}`
  if (config.eosTokenIds.some((id) => id >= config.vocabSize)) return `an end token is outside the vocabulary of ${config.vocabSize}`
  if (router.groups !== null) {
    const { count: groups, chosen } = router.groups
    const size = experts / groups
    if (!Number.isInteger(size) || chosen > groups || expertsPerToken > chosen * size || (router.groups.score === 'best-two' && size < 2)) {
      return `${chosen} of ${groups} groups of ${experts} experts do not make ${expertsPerToken} per token`
    }
  }
  for (const part of [config.sliding, config.dense]) {
    if (part?.layers.some((layer, i) => layer >= config.layers || (i > 0 && layer <= part.layers[i - 1]!)) === true) {
      return `layers [${part.layers.join(', ')}] are not ascending numbers of the ${config.layers} layers`
    }
  }
  if (config.dense?.layers.length === config.layers) return 'no layer has experts'
  return undefined
}
