/**
 * The manifest of a packaged model: canonical JSON (keys sorted, no spaces) whose CID names the model.
 * Everything a node allocates for a model is bounded by what is validated here.
 */

/** Hugging Face names of the architectures that have an adapter. */
export type Architecture = 'Qwen3MoeForCausalLM' | 'OlmoeForCausalLM' | 'MixtralForCausalLM'

/** How weights are stored: `q4`/`q8` in blocks along the input dimension, symmetric, f32 scale per block. */
export type QuantKind = 'f32' | 'f16' | 'q8' | 'q4'

export interface Quant {
  readonly kind: QuantKind
  /** Weights per scale; 0 for f32 and f16. */
  readonly block: number
}

/** What the engine needs to know of a model, whatever its architecture called it. */
export interface ModelConfig {
  readonly architecture: Architecture
  readonly hiddenSize: number
  readonly layers: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly vocabSize: number
  /** Tokens, prompt and answer together. */
  readonly maxContext: number
  readonly ropeTheta: number
  readonly normEpsilon: number
  /** `head`: one norm per attention head (Qwen3); `full`: one over the whole projection (OLMoE). */
  readonly qkNorm: 'none' | 'head' | 'full'
  /** Clamp of q, k and v to ±this, or null (OLMoE `clip_qkv`). */
  readonly clipQkv: number | null
  readonly experts: number
  readonly expertsPerToken: number
  /** Inner width of one expert's SwiGLU. */
  readonly expertSize: number
  /** Whether the weights of the chosen experts are scaled to sum to 1. */
  readonly normTopK: boolean
  readonly eosTokenIds: readonly number[]
}

/** Storage type of one tensor; quantised codes are `u8`. */
export type TensorType = 'f32' | 'f16' | 'u8'

/** One tensor inside a blob; `offset` is a multiple of {@link TENSOR_ALIGNMENT}. */
export interface TensorEntry {
  readonly name: string
  readonly type: TensorType
  readonly shape: readonly number[]
  readonly offset: number
  readonly bytes: number
}

/** Page size: what lets onnxruntime map a tensor from its file. */
export const TENSOR_ALIGNMENT = 4096

/**
 * Roles: `embedding` (tensor `embed` [vocab, hidden]), `layer` (attention, norms and router of one layer), `head` (final norm, lm_head),
 * `experts` (a shard: experts `first..last` of `layer`), `tokenizer` (`name` is the file's name).
 */
export type BlobEntry =
  | { readonly role: 'embedding'; readonly cid: string; readonly bytes: number; readonly tensors: readonly TensorEntry[] }
  | {
      readonly role: 'layer'
      readonly layer: number
      readonly cid: string
      readonly bytes: number
      readonly tensors: readonly TensorEntry[]
    }
  | { readonly role: 'head'; readonly cid: string; readonly bytes: number; readonly tensors: readonly TensorEntry[] }
  | ShardEntry
  | { readonly role: 'tokenizer'; readonly name: string; readonly cid: string; readonly bytes: number }

/** Experts `first..last` (inclusive) of one layer; expert e's tensors begin at `(e - first) * manifest.expertLayout.stride`. */
export interface ShardEntry {
  readonly role: 'experts'
  readonly layer: number
  readonly first: number
  readonly last: number
  readonly cid: string
  readonly bytes: number
}

export interface Manifest {
  readonly format: 'skein-model/1'
  /** Friendly name: lower case letters, digits, `.`, `_`, `-`; at most 64. */
  readonly name: string
  readonly config: ModelConfig
  readonly quant: Quant
  /** Where the tensors of one expert lie relative to its start (gate, up, down). */
  readonly expertLayout: { readonly stride: number; readonly tensors: readonly TensorEntry[] }
  readonly blobs: readonly BlobEntry[]
  /** Sampling defaults of generation_config.json, where given. */
  readonly generation: { readonly temperature?: number; readonly topK?: number; readonly topP?: number }
}

/**
 * Tensor names inside blobs. A linear weight W [out, in] named `x` is stored as
 * - f32/f16: `x` of shape [in, out] (transposed from Hugging Face, so that onnxruntime's MatMul reads it in place);
 * - q8/q4: `x.codes` u8 [out, ceil(in/block), block*bits/8] and `x.scales` f32 [out, ceil(in/block)], the layout of com.microsoft.MatMulNBits.
 *
 * layer: attn_norm, q, k, v, o, q_norm?, k_norm?, ffn_norm, router ([hidden, experts], always f32); norms always f32 [n]
 * head: final_norm f32 [hidden], lm_head (a linear; its own copy also where embeddings are tied)
 * embedding: embed [vocab, hidden] row-major, f32 when quant is f32, else f16
 * expert: gate, up, down (linears)
 */
