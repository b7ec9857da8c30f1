import { ModelError } from '../../errors.ts'
import type { SourceTensor } from '../source-tensor.ts'
import type { GgufFile } from './header.ts'
import type { GgufMetadata } from './metadata.ts'

/** How llama.cpp's converter writes one architecture. */
interface GgufArchitecture {
  /** Whether rows of q and k were reordered so that rotary embedding turns neighbours (`permute` of conversion/llama.py). */
  readonly pairedHeads?: boolean
  /** Tensors of a layer that have other names than usual, by our name. */
  readonly names?: Readonly<Record<string, string>>
  /** Fields of the Hugging Face config.json beyond those that all have. `of`: the architecture's own metadata. */
  readonly fields: (of: ArchitectureMetadata) => Readonly<Record<string, unknown>>
}

/** `post_attention_layernorm` where another norm could follow. */
const POST_ATTENTION = { ffn_norm: 'post_attention_norm.weight' }
const CHOICE_BIAS = { router_bias: 'exp_probs_b.bias' }
/** `expert_gating_func` of routers that score with a sigmoid. */
const SIGMOID = 2

const ARCHITECTURES: Readonly<Record<string, GgufArchitecture>> = {
  qwen3moe: {
    fields: (of) => ({
      architectures: ['Qwen3MoeForCausalLM'],
      num_experts: of.number('expert_count'),
      num_experts_per_tok: of.number('expert_used_count'),
      moe_intermediate_size: of.number('expert_feed_forward_length'),
      norm_topk_prob: true,
    }),
  },
  qwen2moe: {
    fields: (of) => ({
      architectures: ['Qwen2MoeForCausalLM'],
      num_experts: of.number('expert_count'),
      num_experts_per_tok: of.number('expert_used_count'),
      moe_intermediate_size: of.number('expert_feed_forward_length'),
      shared_expert_intermediate_size: of.number('expert_shared_feed_forward_length'),
      qkv_bias: of.has('blk.0.attn_q.bias'),
      norm_topk_prob: false,
    }),
  },
  olmoe: {
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
  granitemoe: {
    pairedHeads: true,
    fields: (of) => ({
      architectures: ['GraniteMoeForCausalLM'],
      num_local_experts: of.number('expert_count'),
      num_experts_per_tok: of.number('expert_used_count'),
      intermediate_size: of.number('feed_forward_length'),
      shared_intermediate_size: of.number('expert_shared_feed_forward_length'),
      attention_multiplier: of.number('attention.scale'),
      embedding_multiplier: of.number('embedding_scale'),
      residual_multiplier: of.number('residual_scale'),
      logits_scaling: of.number('logit_scale'),
    }),
  },
  'gpt-oss': {
    names: POST_ATTENTION,
    fields: (of) => ({
      architectures: ['GptOssForCausalLM'],
      num_local_experts: of.number('expert_count'),
      num_experts_per_tok: of.number('expert_used_count'),
      intermediate_size: of.number('expert_feed_forward_length'),
      sliding_window: of.number('attention.sliding_window'),
      attention_bias: of.has('blk.0.attn_q.bias'),
    }),
  },
  glm4moe: {
    names: { ...POST_ATTENTION, ...CHOICE_BIAS },
    fields: (of) => ({
      architectures: ['Glm4MoeForCausalLM'],
      // Layers for predicting several tokens come last.
      num_hidden_layers: (of.number('block_count') ?? 0) - (of.number('nextn_predict_layers') ?? 0),
      ...deepseekExperts(of),
      use_qk_norm: of.has('blk.0.attn_q_norm.weight'),
      attention_bias: of.has('blk.0.attn_q.bias'),
      partial_rotary_factor: (of.number('rope.dimension_count') ?? 0) / (of.number('attention.key_length') ?? 0),
    }),
  },
  deepseek2: {
    names: CHOICE_BIAS,
    fields: (of) => {
      const ropeDim = of.number('rope.dimension_count') ?? 0
      const isSigmoid = of.number('expert_gating_func') === SIGMOID
      const groups = of.number('expert_group_count') ?? 1
      return {
        architectures: [isSigmoid ? 'DeepseekV3ForCausalLM' : 'DeepseekV2ForCausalLM'],
        ...deepseekExperts(of),
        ...(isSigmoid ? {} : { topk_method: groups > 1 ? 'group_limited_greedy' : 'greedy' }),
        // Newer files describe the heads as they are in the latent space; what is meant here ends in _mla then.
        num_key_value_heads: of.number('attention.head_count'),
        head_dim: undefined,
        q_lora_rank: of.number('attention.q_lora_rank'),
        kv_lora_rank: of.number('attention.kv_lora_rank'),
        qk_rope_head_dim: ropeDim,
        qk_nope_head_dim: (of.number('attention.key_length_mla') ?? of.number('attention.key_length') ?? 0) - ropeDim,
        v_head_dim: of.number('attention.value_length_mla') ?? of.number('attention.value_length'),
      }
    },
  },
}

/** Routed and shared experts, and first dense layers, as DeepSeek has them. */
function deepseekExperts(of: ArchitectureMetadata): Record<string, unknown> {
  return {
    n_routed_experts: of.number('expert_count'),
    num_experts_per_tok: of.number('expert_used_count'),
    n_shared_experts: of.number('expert_shared_count'),
    moe_intermediate_size: of.number('expert_feed_forward_length'),
    intermediate_size: of.number('feed_forward_length'),
    first_k_dense_replace: of.number('leading_dense_block_count') ?? 0,
    n_group: of.number('expert_group_count'),
    topk_group: of.number('expert_group_used_count'),
    norm_topk_prob: of.flag('expert_weights_norm') ?? false,
    routed_scaling_factor: of.number('expert_weights_scale') ?? 1,
  }
}

/** Metadata keys that begin with the architecture's name. */
export interface ArchitectureMetadata {
  number(key: string): number | undefined
  text(key: string): string | undefined
  flag(key: string): boolean | undefined
  /** Whether the file has a tensor. */
  has(tensor: string): boolean
}

export interface GgufConfig {
  /** As in config.json of the Hugging Face checkpoint. */
  readonly fields: Record<string, unknown>
  /** Size of a head where rows of q and k are stored in pairs. */
  readonly pairedHead: number | undefined
  /** Tensors of a layer that have other names than usual, by our name. */
  readonly names: Readonly<Record<string, string>>
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
  const of = scoped(file, name)
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
    pairedHead: architecture.pairedHeads === true ? headDim : undefined,
    names: architecture.names ?? {},
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
  const factor = of.number('rope.scaling.factor')
  if (kind !== 'yarn') return { rope_type: kind, factor }
  // Written as a tenth of what DeepSeek's configurations call mscale_all_dim; mscale is the same in all of them.
  const log = of.number('rope.scaling.yarn_log_multiplier')
  const mscale = log === undefined ? undefined : Number((log * 10).toPrecision(6))
  return {
    rope_type: kind,
    factor,
    original_max_position_embeddings: of.number('rope.scaling.original_context_length'),
    beta_fast: of.number('rope.scaling.yarn_beta_fast'),
    beta_slow: of.number('rope.scaling.yarn_beta_slow'),
    mscale,
    mscale_all_dim: mscale,
    // gpt-oss alone does not round where scaling begins and ends, which llama.cpp does for all.
    truncate: of.has('blk.0.attn_sinks.weight') ? false : undefined,
  }
}

/** Ends of text, of a turn and of a message. */
function endTokens(metadata: GgufMetadata): number[] {
  const ids = ['eos', 'eot', 'eom'].map((kind) => metadata.number(`tokenizer.ggml.${kind}_token_id`))
  return ids.filter((id) => id !== undefined)
}

function scoped({ metadata, tensors }: GgufFile, name: string): ArchitectureMetadata {
  return {
    number: (key) => metadata.number(`${name}.${key}`),
    text: (key) => metadata.text(`${name}.${key}`),
    flag: (key) => metadata.flag(`${name}.${key}`),
    has: (tensor) => tensors.has(tensor),
  }
}
