/** What the engine needs to know of a model, whatever its architecture called it. Part of the manifest, so JSON. */
export interface ModelConfig {
  readonly architecture: Architecture
  readonly hiddenSize: number
  readonly layers: number
  readonly vocabSize: number
  /** Tokens, prompt and answer together. */
  readonly maxContext: number
  readonly normEpsilon: number
  readonly attention: GroupedAttention | LatentAttention
  readonly rope: RopeConfig
  /** Layers (ascending) whose attention sees only the last `window` tokens, the current one among them. */
  readonly sliding: { readonly window: number; readonly layers: readonly number[] } | null
  /** Layers (ascending) with one SwiGLU of inner width `size` instead of experts. */
  readonly dense: { readonly size: number; readonly layers: readonly number[] } | null
  /** A SwiGLU beside the routed experts of each layer that has these; `gated`: times the sigmoid of one more weight (Qwen2-MoE). */
  readonly shared: { readonly size: number; readonly gated: boolean } | null
  readonly experts: number
  readonly expertsPerToken: number
  /** Inner width of one expert. */
  readonly expertSize: number
  readonly expertActivation: Activation
  /** Whether the three projections of an expert have biases. */
  readonly expertBias: boolean
  readonly router: RouterConfig
  readonly scales: Scales
  readonly eosTokenIds: readonly number[]
}

/** Hugging Face names of the architectures that have an adapter. */
export const ARCHITECTURES = [
  'Qwen3MoeForCausalLM',
  'OlmoeForCausalLM',
  'MixtralForCausalLM',
  'Qwen2MoeForCausalLM',
  'GptOssForCausalLM',
  'DeepseekV2ForCausalLM',
  'DeepseekV3ForCausalLM',
  'GraniteMoeForCausalLM',
  'Glm4MoeForCausalLM',
] as const
export type Architecture = (typeof ARCHITECTURES)[number]

/** Queries in groups that share a key-value head. */
export interface GroupedAttention {
  readonly kind: 'grouped'
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  /** `head`: one norm per attention head (Qwen3); `full`: one over the whole projection (OLMoE). */
  readonly qkNorm: 'none' | 'head' | 'full'
  /** Clamp of q, k and v to ±this, or null (OLMoE `clip_qkv`). */
  readonly clipQkv: number | null
  /** Which projections have biases. */
  readonly bias: 'none' | 'qkv' | 'qkvo'
  /** One learnt logit per head that takes part in the softmax and has no value (gpt-oss). */
  readonly sinks: boolean
  /** Factor of the products of queries and keys. */
  readonly scale: number
}

/**
 * Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): keys and values of all heads are projections of one latent vector per token,
 * which is what the cache holds, with a rotated part of the key that all heads share.
 */
export interface LatentAttention {
  readonly kind: 'latent'
  readonly heads: number
  /** Width of the compressed queries, or null where they are not compressed. */
  readonly queryRank: number | null
  readonly latentRank: number
  /** Width of the part of a head's key that is not rotated; the rotated part is `rope.dim` wide. */
  readonly plainDim: number
  readonly valueDim: number
  readonly scale: number
}

/** Rotary position embedding (arXiv 2104.09864) of the first `dim` numbers of each head. */
export interface RopeConfig {
  readonly theta: number
  readonly dim: number
  /** Whether neighbouring numbers form a pair, rather than those `dim / 2` apart. */
  readonly interleaved: boolean
  readonly scaling: RopeScaling
}

/** How positions beyond the training's are dealt with. `context`: tokens that the model was first trained for. */
export type RopeScaling =
  | { readonly kind: 'default' }
  | { readonly kind: 'linear'; readonly factor: number }
  | { readonly kind: 'dynamic'; readonly factor: number; readonly context: number }
  | {
      readonly kind: 'yarn'
      readonly factor: number
      readonly context: number
      readonly betaFast: number
      readonly betaSlow: number
      readonly truncate: boolean
      /** Factor of all cosines and sines. */
      readonly magnitude: number
    }
  | {
      readonly kind: 'llama3'
      readonly factor: number
      readonly context: number
      readonly lowFactor: number
      readonly highFactor: number
    }

/** `clamped-swiglu` (gpt-oss): g = min(gate, limit), u = clamp(up, ±limit); g · sigmoid(alpha · g) · (u + 1). */
export type Activation = { readonly kind: 'swiglu' } | { readonly kind: 'clamped-swiglu'; readonly alpha: number; readonly limit: number }

/** How a token's experts and their weights follow from the router's logits. */
export interface RouterConfig {
  readonly scoring: 'softmax' | 'sigmoid'
  /** `logits`: added before scoring; `choice`: added to the scores for choosing, but not for weighting (DeepSeek-V3). */
  readonly bias: 'none' | 'logits' | 'choice'
  /** Experts are chosen from the best `chosen` of `count` equal groups; a group is as good as its best expert or its best two together. */
  readonly groups: { readonly count: number; readonly chosen: number; readonly score: 'best' | 'best-two' } | null
  /** Whether the weights of the chosen experts are scaled to sum to 1. */
  readonly normalise: boolean
  /** Factor of the weights at last. */
  readonly scale: number
}

/** Factors that are 1 but for Granite. */
export interface Scales {
  readonly embedding: number
  /** Of what attention and experts add to the residual stream. */
  readonly residual: number
  readonly logits: number
}

/** Whether a layer has a dense MLP and no experts. */
export function isDense(config: ModelConfig, layer: number): boolean {
  return config.dense?.layers.includes(layer) ?? false
}

/** Layers that have experts, ascending. */
export function expertLayers(config: ModelConfig): number[] {
  return Array.from({ length: config.layers }, (_, layer) => layer).filter((layer) => !isDense(config, layer))
}

/** Tokens that attention of a layer sees, or null for all. */
export function windowOf(config: ModelConfig, layer: number): number | null {
  return config.sliding?.layers.includes(layer) === true ? config.sliding.window : null
}

/** What a layer's cache keeps of each token. */
export interface CacheShape {
  readonly heads: number
  /** Numbers per head. */
  readonly width: number
  /** Whether values are stored beside the keys, or are the keys (latent attention). */
  readonly separateValues: boolean
}

export function cacheShape({ attention, rope }: ModelConfig): CacheShape {
  if (attention.kind === 'latent') return { heads: 1, width: attention.latentRank + rope.dim, separateValues: false }
  return { heads: attention.kvHeads, width: attention.headDim, separateValues: true }
}
