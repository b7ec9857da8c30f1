/**
 * Configurations as the published models have them: each is read, and the weights that follow from it are as many as its authors say.
 * A field that is read wrongly shows in the count, or in what is checked beside it.
 */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { findArchitecture } from '../../../node/model/architectures/index.ts'
import { refuseUnreadOptions } from '../../../node/model/architectures/unread-options.ts'
import { HfConfig } from '../../../node/model/hf-config.ts'
import { cacheShape, expertLayers } from '../../../node/model/model-config.ts'
import type { ModelConfig } from '../../../node/model/model-config.ts'
import { embeddingWeights, expertWeights, headWeights, layerWeights } from '../../../node/model/weight-specs.ts'
import type { WeightSpec } from '../../../node/model/weight-specs.ts'

/** Of the number of weights: authors round. */
const TOLERANCE = 0.01

interface Published {
  readonly model: string
  readonly billions: number
  readonly config: Readonly<Record<string, unknown>>
  readonly expected: (config: ModelConfig) => void
}

const common = { hidden_act: 'silu', attention_dropout: 0, initializer_range: 0.02, use_cache: true, tie_word_embeddings: false }
const alternating = (layers: number): string[] =>
  Array.from({ length: layers }, (_, layer) => (layer % 2 === 0 ? 'sliding_attention' : 'full_attention'))
const deepseek = {
  ...common,
  attention_bias: false,
  aux_loss_alpha: 0.001,
  ep_size: 1,
  kv_lora_rank: 512,
  max_position_embeddings: 163_840,
  moe_layer_freq: 1,
  pretraining_tp: 1,
  qk_nope_head_dim: 128,
  qk_rope_head_dim: 64,
  rms_norm_eps: 1e-6,
  rope_theta: 10_000,
  seq_aux: true,
  v_head_dim: 128,
}
const deepseekYarn = { beta_fast: 32, beta_slow: 1, factor: 40, original_max_position_embeddings: 4096, type: 'yarn' }

const PUBLISHED: readonly Published[] = [
  {
    model: 'Qwen1.5-MoE-A2.7B',
    billions: 14.3,
    config: {
      ...common,
      architectures: ['Qwen2MoeForCausalLM'],
      decoder_sparse_step: 1,
      hidden_size: 2048,
      intermediate_size: 5632,
      max_position_embeddings: 8192,
      max_window_layers: 21,
      moe_intermediate_size: 1408,
      norm_topk_prob: false,
      num_attention_heads: 16,
      num_experts: 60,
      num_experts_per_tok: 4,
      num_hidden_layers: 24,
      num_key_value_heads: 16,
      rms_norm_eps: 1e-6,
      rope_theta: 1_000_000,
      router_aux_loss_coef: 0.001,
      shared_expert_intermediate_size: 5632,
      sliding_window: 32_768,
      use_sliding_window: false,
      vocab_size: 151_936,
    },
    expected: ({ shared, sliding, router }) => {
      assert.deepEqual(shared, { size: 5632, gated: true })
      assert.deepEqual([sliding, router.normalise], [null, false])
    },
  },
  {
    model: 'Qwen3-30B-A3B',
    billions: 30.5,
    config: {
      ...common,
      architectures: ['Qwen3MoeForCausalLM'],
      attention_bias: false,
      decoder_sparse_step: 1,
      head_dim: 128,
      hidden_size: 2048,
      intermediate_size: 6144,
      max_position_embeddings: 40_960,
      max_window_layers: 48,
      mlp_only_layers: [],
      moe_intermediate_size: 768,
      norm_topk_prob: true,
      num_attention_heads: 32,
      num_experts: 128,
      num_experts_per_tok: 8,
      num_hidden_layers: 48,
      num_key_value_heads: 4,
      rms_norm_eps: 1e-6,
      rope_scaling: null,
      rope_theta: 1_000_000,
      sliding_window: null,
      use_sliding_window: false,
      vocab_size: 151_936,
    },
    expected: ({ dense, maxContext }) => assert.deepEqual([dense, maxContext], [null, 40_960]),
  },
  {
    model: 'OLMoE-1B-7B-0924',
    billions: 6.92,
    config: {
      ...common,
      architectures: ['OlmoeForCausalLM'],
      attention_bias: false,
      clip_qkv: null,
      hidden_size: 2048,
      intermediate_size: 1024,
      max_position_embeddings: 4096,
      norm_topk_prob: false,
      num_attention_heads: 16,
      num_experts: 64,
      num_experts_per_tok: 8,
      num_hidden_layers: 16,
      num_key_value_heads: 16,
      rms_norm_eps: 1e-5,
      rope_scaling: null,
      rope_theta: 10_000,
      vocab_size: 50_304,
    },
    expected: ({ attention }) => assert.equal(attention.kind === 'grouped' && attention.qkNorm, 'full'),
  },
  {
    model: 'Mixtral-8x7B-v0.1',
    billions: 46.7,
    config: {
      ...common,
      architectures: ['MixtralForCausalLM'],
      hidden_size: 4096,
      intermediate_size: 14_336,
      max_position_embeddings: 32_768,
      num_attention_heads: 32,
      num_experts_per_tok: 2,
      num_hidden_layers: 32,
      num_key_value_heads: 8,
      num_local_experts: 8,
      rms_norm_eps: 1e-5,
      rope_theta: 1_000_000,
      sliding_window: null,
      vocab_size: 32_000,
    },
    expected: ({ sliding }) => assert.equal(sliding, null),
  },
  {
    model: 'gpt-oss-20b',
    billions: 20.9,
    config: {
      ...common,
      architectures: ['GptOssForCausalLM'],
      attention_bias: true,
      experts_per_token: 4,
      head_dim: 64,
      hidden_size: 2880,
      initial_context_length: 4096,
      intermediate_size: 2880,
      layer_types: alternating(24),
      max_position_embeddings: 131_072,
      num_attention_heads: 64,
      num_experts_per_tok: 4,
      num_hidden_layers: 24,
      num_key_value_heads: 8,
      num_local_experts: 32,
      quantization_config: { modules_to_not_convert: ['model.layers.*.self_attn', 'lm_head'], quant_method: 'mxfp4' },
      rms_norm_eps: 1e-5,
      rope_scaling: {
        beta_fast: 32,
        beta_slow: 1,
        factor: 32,
        original_max_position_embeddings: 4096,
        rope_type: 'yarn',
        truncate: false,
      },
      rope_theta: 150_000,
      router_aux_loss_coef: 0.9,
      sliding_window: 128,
      swiglu_limit: 7,
      vocab_size: 201_088,
    },
    expected: ({ sliding, maxContext, expertActivation, router }) => {
      assert.deepEqual(sliding, { window: 128, layers: [0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22] })
      assert.equal(maxContext, 131_072)
      assert.deepEqual(expertActivation, { kind: 'clamped-swiglu', alpha: 1.702, limit: 7 })
      assert.equal(router.bias, 'logits')
    },
  },
  {
    model: 'DeepSeek-V2-Lite',
    billions: 15.7,
    config: {
      ...deepseek,
      architectures: ['DeepseekV2ForCausalLM'],
      first_k_dense_replace: 1,
      hidden_size: 2048,
      intermediate_size: 10_944,
      moe_intermediate_size: 1408,
      n_group: 1,
      n_routed_experts: 64,
      n_shared_experts: 2,
      norm_topk_prob: false,
      num_attention_heads: 16,
      num_experts_per_tok: 6,
      num_hidden_layers: 27,
      num_key_value_heads: 16,
      q_lora_rank: null,
      rope_scaling: { ...deepseekYarn, mscale: 0.707, mscale_all_dim: 0.707 },
      routed_scaling_factor: 1,
      scoring_func: 'softmax',
      topk_group: 1,
      topk_method: 'greedy',
      vocab_size: 102_400,
    },
    expected: (config) => {
      assert.deepEqual(cacheShape(config), { heads: 1, width: 576, separateValues: false })
      assert.deepEqual(config.dense, { size: 10_944, layers: [0] })
      assert.deepEqual(config.shared, { size: 2816, gated: false })
      // DeepSeek's own code: 192 ** -0.5 * (0.1 * 0.707 * ln(40) + 1) ** 2.
      assert.ok(Math.abs(config.attention.scale - 0.114721) < 1e-6)
    },
  },
  {
    model: 'DeepSeek-V3',
    billions: 671,
    config: {
      ...deepseek,
      architectures: ['DeepseekV3ForCausalLM'],
      first_k_dense_replace: 3,
      hidden_size: 7168,
      intermediate_size: 18_432,
      moe_intermediate_size: 2048,
      n_group: 8,
      n_routed_experts: 256,
      n_shared_experts: 1,
      norm_topk_prob: true,
      num_attention_heads: 128,
      num_experts_per_tok: 8,
      num_hidden_layers: 61,
      num_key_value_heads: 128,
      num_nextn_predict_layers: 1,
      q_lora_rank: 1536,
      quantization_config: { activation_scheme: 'dynamic', fmt: 'e4m3', quant_method: 'fp8', weight_block_size: [128, 128] },
      rope_scaling: { ...deepseekYarn, mscale: 1, mscale_all_dim: 1 },
      routed_scaling_factor: 2.5,
      scoring_func: 'sigmoid',
      topk_group: 4,
      topk_method: 'noaux_tc',
      vocab_size: 129_280,
    },
    expected: (config) => {
      assert.deepEqual(config.router, {
        scoring: 'sigmoid',
        bias: 'choice',
        groups: { count: 8, chosen: 4, score: 'best-two' },
        normalise: true,
        scale: 2.5,
      })
      assert.equal(expertLayers(config).length, 58)
    },
  },
  {
    model: 'granite-3.0-1b-a400m',
    billions: 1.33,
    config: {
      ...common,
      architectures: ['GraniteMoeForCausalLM'],
      attention_bias: false,
      attention_multiplier: 0.015625,
      embedding_multiplier: 12,
      hidden_size: 1024,
      intermediate_size: 512,
      logits_scaling: 6,
      max_position_embeddings: 4096,
      num_attention_heads: 16,
      num_experts_per_tok: 8,
      num_hidden_layers: 24,
      num_key_value_heads: 8,
      num_local_experts: 32,
      residual_multiplier: 0.22,
      rms_norm_eps: 1e-6,
      rope_scaling: null,
      rope_theta: 10_000,
      tie_word_embeddings: true,
      vocab_size: 49_155,
    },
    expected: ({ scales, attention }) => {
      assert.deepEqual(scales, { embedding: 12, residual: 0.22, logits: 1 / 6 })
      assert.equal(attention.scale, 0.015625)
    },
  },
  {
    model: 'GLM-4.5-Air',
    billions: 106,
    config: {
      ...common,
      architectures: ['Glm4MoeForCausalLM'],
      attention_bias: true,
      first_k_dense_replace: 1,
      head_dim: 128,
      hidden_size: 4096,
      intermediate_size: 10_944,
      max_position_embeddings: 131_072,
      moe_intermediate_size: 1408,
      n_group: 1,
      n_routed_experts: 128,
      n_shared_experts: 1,
      norm_topk_prob: true,
      num_attention_heads: 96,
      num_experts_per_tok: 8,
      num_hidden_layers: 46,
      num_key_value_heads: 8,
      num_nextn_predict_layers: 1,
      partial_rotary_factor: 0.5,
      rms_norm_eps: 1e-5,
      rope_scaling: null,
      rope_theta: 1_000_000,
      routed_scaling_factor: 1,
      topk_group: 1,
      use_qk_norm: false,
      vocab_size: 151_552,
    },
    expected: ({ rope, attention, router }) => {
      assert.equal(rope.dim, 64)
      assert.deepEqual(attention.kind === 'grouped' && [attention.bias, attention.qkNorm], ['qkv', 'none'])
      assert.equal(router.groups, null)
    },
  },
]

for (const { model, billions, config: fields, expected } of PUBLISHED) {
  test(`${model} has ${billions} billion weights`, (t) => {
    const hf = new HfConfig(fields, 'config.json')
    const config = findArchitecture(hf.raw('architectures'), 'config.json').readConfig(hf, [])
    refuseUnreadOptions(hf)
    const found = weightsOf(config, fields['tie_word_embeddings'] === true) / 1e9
    t.diagnostic(`${found.toFixed(3)} billion`)
    assert.ok(Math.abs(found / billions - 1) <= TOLERANCE, `${found} billion`)
    expected(config)
  })
}

function weightsOf(config: ModelConfig, tied: boolean): number {
  const count = (specs: readonly WeightSpec[]): number =>
    specs.reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0)
  const layers = Array.from({ length: config.layers }, (_, layer) => count(layerWeights(config, layer)))
  const experts = expertLayers(config).length * config.experts * count(expertWeights(config))
  const embedding = count(embeddingWeights(config))
  return embedding + (tied ? 0 : count(headWeights(config))) + layers.reduce((sum, n) => sum + n, 0) + experts
}
