import { ModelError } from '../../errors.ts'
import type { SourceTensor } from '../source-tensor.ts'
import type { GgufFile } from './header.ts'
import type { GgufMetadata } from './metadata.ts'

/** How llama.cpp's converter writes one architecture. */
interface GgufArchitecture {
  /** Whether rows of q and k were reordered so that rotary embedding turns neighbours (`permute` of conversion/llama.py). */
  readonly pairedHeads: boolean
  /** Fields of the Hugging Face config.json beyond those that all have. `of`: the architecture's own metadata. */
  readonly fields: (of: ArchitectureMetadata) => Readonly<Record<string, unknown>>
}

const ARCHITECTURES: Readonly<Record<string, GgufArchitecture>> = {
  qwen3moe: {
    pairedHeads: false,
    fields: (of) => ({
      architectures: ['Qwen3MoeForCausalLM'],
      num_experts: of.number('expert_count'),
      num_experts_per_tok: of.number('expert_used_count'),
      moe_intermediate_size: of.number('expert_feed_forward_length'),
      norm_topk_prob: true,
    }),
  },
  qwen2moe: {
    pairedHeads: false,
    fields: (of) => ({
      architectures: ['Qwen2MoeForCausalLM'],
      num_experts: of.number('expert_count'),
      num_experts_per_tok: of.number('expert_used_count'),
      moe_intermediate_size: of.number('expert_feed_forward_length'),
      shared_expert_intermediate_size: of.number('expert_shared_feed_forward_length'),
      norm_topk_prob: false,
    }),
  },
  olmoe: {
    pairedHeads: false,
    fields: (of) => ({
      architectures: ['OlmoeForCausalLM'],
      num_experts: of.number('expert_count'),
      num_experts_per_tok: of.number('expert_used_count'),
      intermediate_size: of.number('feed_forward_length'),
      clip_qkv: of.number('attention.clamp_kqv'),
      norm_topk_prob: false,
    }),
  },
  llama: {
    pairedHeads: true,
    fields: (of) => ({
      architectures: ['MixtralForCausalLM'],
      num_local_experts: of.number('expert_count'),
      num_experts_per_tok: of.number('expert_used_count'),
      intermediate_size: of.number('feed_forward_length'),
    }),
  },
}

/** Metadata keys that begin with the architecture's name. */
export interface ArchitectureMetadata {
  number(key: string): number | undefined
  text(key: string): string | undefined
}

export interface GgufConfig {
  /** As in config.json of the Hugging Face checkpoint. */
  readonly fields: Record<string, unknown>
  /** Size of a head where rows of q and k are stored in pairs. */
  readonly pairedHead: number | undefined
}

/** Configuration of a file's model. Throws `ModelError` for an architecture that is not known. */
export function ggufConfig(file: GgufFile): GgufConfig {
  const { metadata, tensors, path } = file
  const name = metadata.required('general.architecture', metadata.text('general.architecture'))
  const architecture = Object.hasOwn(ARCHITECTURES, name) ? ARCHITECTURES[name] : undefined
  if (architecture === undefined) {
    throw new ModelError(
      `${path}: GGUF architecture ${name.slice(0, 40)} is not supported; known: ${Object.keys(ARCHITECTURES).join(', ')}`,
    )
  }
  const of = scoped(metadata, name)
  if ((of.number('expert_count') ?? 0) === 0) {
    throw new ModelError(`${path}: ${name}.expert_count is missing or 0: only mixture-of-experts models are run`)
  }
  // llama3's scaled rotary embedding comes as a tensor of factors.
  if (tensors.has('rope_freqs.weight'))
    throw new ModelError(`${path}: tensor rope_freqs.weight is not supported: pack the safetensors checkpoint`)
  const headDim =
    of.number('attention.key_length') ?? Math.floor((of.number('embedding_length') ?? 0) / (of.number('attention.head_count') ?? 1))
  return {
    fields: { ...commonFields(of, metadata, tensors), ...architecture.fields(of) },
    pairedHead: architecture.pairedHeads ? headDim : undefined,
  }
}

function commonFields(
  of: ArchitectureMetadata,
  metadata: GgufMetadata,
  tensors: ReadonlyMap<string, SourceTensor>,
): Record<string, unknown> {
  return {
    hidden_size: of.number('embedding_length'),
    num_hidden_layers: of.number('block_count'),
    num_attention_heads: of.number('attention.head_count'),
    num_key_value_heads: of.number('attention.head_count_kv'),
    head_dim: of.number('attention.key_length'),
    vocab_size: tensors.get('token_embd.weight')?.shape[0],
    max_position_embeddings: of.number('context_length'),
    rms_norm_eps: of.number('attention.layer_norm_rms_epsilon'),
    rope_theta: of.number('rope.freq_base'),
    rope_scaling: ropeScaling(of),
    hidden_act: 'silu',
    tie_word_embeddings: !tensors.has('output.weight'),
    eos_token_id: endTokens(metadata),
  }
}

function ropeScaling(of: ArchitectureMetadata): Record<string, unknown> | undefined {
  const kind = of.text('rope.scaling.type') ?? 'none'
  if (kind === 'none') return undefined
  return {
    rope_type: kind,
    factor: of.number('rope.scaling.factor'),
    original_max_position_embeddings: of.number('rope.scaling.original_context_length'),
  }
}

/** Ends of text, of a turn and of a message. */
function endTokens(metadata: GgufMetadata): number[] {
  const ids = ['eos', 'eot', 'eom'].map((kind) => metadata.number(`tokenizer.ggml.${kind}_token_id`))
  return ids.filter((id) => id !== undefined)
}

function scoped(metadata: GgufMetadata, name: string): ArchitectureMetadata {
  return { number: (key) => metadata.number(`${name}.${key}`), text: (key) => metadata.text(`${name}.${key}`) }
}
