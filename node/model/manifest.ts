/**
 * The manifest of a packaged model: canonical JSON (keys sorted, no spaces) whose CID names the model.
 * Everything a node allocates for a model is bounded by what is validated here.
 */

import type { ModelConfig } from './model-config.ts'

export type { ModelConfig } from './model-config.ts'

/** How weights are stored: `q4`/`q8` in blocks along the input dimension, symmetric, f32 scale per block. */
export type QuantKind = 'f32' | 'f16' | 'q8' | 'q4'

export interface Quant {
  readonly kind: QuantKind
  /** Weights per scale; 0 for f32 and f16. */
  readonly block: number
  /** How the trunk's weights are stored where that is not how the experts' are: q8 beside q4, in the same blocks. */
  readonly trunk?: 'q8'
}

/** How embedding, layers and head are stored. */
export function trunkQuant({ kind, block, trunk }: Quant): Quant {
  return { kind: trunk ?? kind, block }
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
 * Roles: `embedding` (tensor `embed` [vocab, hidden]), `layer` (all of one layer but its routed experts), `head` (final norm, lm_head),
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
 * Tensor names inside blobs: `weight-specs.ts`. A linear weight W [out, in] named `x` is stored as
 * - f32/f16: `x` of shape [in, out] (transposed from Hugging Face, so that onnxruntime's MatMul reads it in place);
 * - q8/q4: `x.codes` u8 [out, ceil(in/block), block*bits/8] and `x.scales` f32 [out, ceil(in/block)], the layout of com.microsoft.MatMulNBits.
 */
