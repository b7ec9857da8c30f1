/** What an architecture does not compute is refused by name; a configuration that is another model's names field and tensor. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { openCheckpoint } from '../../../node/model/checkpoint.ts'
import { planBlobs } from '../../../node/model/pack-plan.ts'
import { changedCheckpoint, goldenCheckpoint } from '../../helpers/checkpoint.ts'

interface Refused {
  readonly fields: Readonly<Record<string, unknown>>
  readonly message: RegExp
}

const REFUSED: Readonly<Record<string, readonly Refused[]>> = {
  'random-qwen2moe': [
    {
      fields: { layer_types: undefined, use_sliding_window: true, sliding_window: 8 },
      message: /use_sliding_window true is not supported: layer_types must say/,
    },
    { fields: { layer_types: ['full_attention'] }, message: /layer_types \["full_attention"\] is not supported: expected .* 3 layers/ },
    {
      fields: { layer_types: ['full_attention', 'linear_attention', 'full_attention'] },
      message: /layer_types .*linear_attention.* is not supported/,
    },
    {
      fields: { shared_expert_intermediate_size: 48 },
      message:
        /shared_expert\.gate_proj\.weight has shape \[40, 48\] and the configuration \(shared_expert_intermediate_size, hidden_size\)/,
    },
    { fields: { mlp_only_layers: [] }, message: /tensor model\.layers\.1\.mlp\.gate\.weight is missing/ },
    {
      fields: { qkv_bias: false },
      message: /tensor .*\.self_attn\.\w+_proj\.bias is not used by what config\.json describes; look at attention_bias/,
    },
    { fields: { qkv_bias: 'yes' }, message: /qkv_bias is "yes"; expected true or false/ },
  ],
  'random-gptoss': [
    { fields: { hidden_act: 'gelu' }, message: /hidden_act "gelu" is not supported/ },
    { fields: { swiglu_limit: -7 }, message: /swiglu_limit is -7; expected a number above 0/ },
    {
      fields: { intermediate_size: 32 },
      message:
        /experts\.gate_up_proj has shape \[6, 48, 48\] and the configuration \(intermediate_size, hidden_size\) asks for \[6, 48, 64\]/,
    },
    { fields: { num_local_experts: 8 }, message: /mlp\.router\.weight has shape \[6, 48\] .* \(num_local_experts, hidden_size\)/ },
    {
      fields: { head_dim: 32 },
      message: /self_attn\.q_proj\.weight has shape \[64, 48\] .* \(num_attention_heads, head_dim, hidden_size\)/,
    },
    {
      fields: { head_dim: 15 },
      message: /head_dim 15 is not supported: it would rotate 15 of a head's 15 numbers; an even part is needed/,
    },
    { fields: { routed_scaling_factor: 2 }, message: /routed_scaling_factor 2 is not supported: this architecture has no such option/ },
  ],
  'random-gptoss-mxfp4': [
    {
      fields: { intermediate_size: 32 },
      message:
        /experts\.gate_up_proj has shape \[8, 128, 64\] and the configuration \(intermediate_size, hidden_size\) asks for \[8, 64, 64\]/,
    },
  ],
  'random-deepseek2': [
    { fields: { attention_bias: true }, message: /attention_bias true is not supported: latent attention has no biases/ },
    { fields: { mlp_bias: true }, message: /mlp_bias true is not supported/ },
    { fields: { norm_topk_prob: true }, message: /norm_topk_prob true is not supported/ },
    { fields: { topk_method: 'noaux_tc' }, message: /topk_method "noaux_tc" is not supported: known are greedy and group_limited_greedy/ },
    { fields: { scoring_func: 'sigmoid' }, message: /scoring_func "sigmoid" is not supported/ },
    { fields: { moe_layer_freq: 2 }, message: /moe_layer_freq 2 is not supported/ },
    { fields: { n_group: 3 }, message: /n_group 3 is not supported: it does not divide the 8 experts/ },
    { fields: { topk_group: 5 }, message: /topk_group is 5; expected a whole number from 1 to 4/ },
    { fields: { num_key_value_heads: 2 }, message: /num_key_value_heads 2 is not supported/ },
    { fields: { qk_rope_head_dim: 7 }, message: /qk_rope_head_dim 7 is not supported: it would rotate 7/ },
    {
      fields: { kv_lora_rank: 22 },
      message: /kv_a_proj_with_mqa\.weight has shape \[32, 64\] .* \(kv_lora_rank, qk_rope_head_dim, hidden_size\) asks for \[30, 64\]/,
    },
    {
      fields: { v_head_dim: 16 },
      message:
        /kv_b_proj\.weight has shape \[112, 24\] .* \(num_attention_heads, qk_nope_head_dim, v_head_dim, kv_lora_rank\) asks for \[128, 24\]/,
    },
    { fields: { q_lora_rank: null }, message: /self_attn\.q_proj\.weight is missing/ },
    {
      fields: { n_shared_experts: 1 },
      message: /shared_experts\.gate_proj\.weight has shape \[32, 64\] .* \(n_shared_experts, hidden_size\) asks for \[16, 64\]/,
    },
    {
      fields: { intermediate_size: 64 },
      message: /layers\.0\.mlp\.gate_proj\.weight has shape \[80, 64\] .* \(intermediate_size, hidden_size\)/,
    },
    { fields: { first_k_dense_replace: 3 }, message: /num_hidden_layers 3 is not supported: no layer would have experts/ },
    { fields: { sliding_window: 64 }, message: /sliding_window 64 is not supported/ },
  ],
  'random-deepseek3': [
    { fields: { topk_method: 'greedy' }, message: /topk_method "greedy" is not supported: this architecture has noaux_tc/ },
    { fields: { scoring_func: 'softmax' }, message: /scoring_func "softmax" is not supported: this architecture has sigmoid/ },
    {
      fields: { quantization_config: { quant_method: 'compressed-tensors' } },
      message: /quantization_config .* only fp8 and mxfp4 are read/,
    },
    { fields: { num_experts_per_tok: 5 }, message: /num_experts_per_tok 5 is not supported: 2 of 4 groups of 8 experts hold only 4/ },
  ],
  'random-granitemoe': [
    { fields: { residual_multiplier: 0 }, message: /residual_multiplier is 0; expected a number above 0/ },
    { fields: { shared_intermediate_size: 64 }, message: /shared_intermediate_size 64 is not supported/ },
    {
      fields: { intermediate_size: 32 },
      message: /input_linear\.weight has shape \[8, 48, 48\] .* \(intermediate_size, hidden_size\) asks for \[8, 64, 48\]/,
    },
  ],
  'random-glm4moe': [
    {
      fields: { rope_parameters: { rope_type: 'default', partial_rotary_factor: 1.5 } },
      message: /it would rotate 24 of a head's 16 numbers/,
    },
    { fields: { use_qk_norm: false }, message: /self_attn\.k_norm\.weight is not used by .*; look at use_qk_norm/ },
    { fields: { n_shared_experts: 0 }, message: /shared_experts\.\w+\.weight is not used by .*; look at its sizes of shared experts/ },
    { fields: { use_qk_norm: 'no' }, message: /use_qk_norm is "no"; expected true or false/ },
    { fields: { n_routed_experts: 16 }, message: /mlp\.gate\.weight has shape \[8, 48\] .* \(n_routed_experts, hidden_size\)/ },
  ],
}

test('options that are off are no hindrance', async (t) => {
  const off = { sliding_window: null, layer_types: ['full_attention', 'full_attention', 'full_attention'], clip_qkv: null, n_group: 1 }
  const dir = await changedCheckpoint(t, goldenCheckpoint('random-granitemoe'), off)
  assert.equal((await openCheckpoint(dir)).config.sliding, null)
})

test('Qwen layers are dense by list and by step', async (t) => {
  const dir = await changedCheckpoint(t, goldenCheckpoint('random-qwen2moe'), { decoder_sparse_step: 2, mlp_only_layers: [] })
  const { config } = await openCheckpoint(dir)
  assert.deepEqual(config.dense, { size: 96, layers: [0, 2] })
})

for (const [name, cases] of Object.entries(REFUSED)) {
  for (const { fields, message } of cases) {
    test(`${name} with ${JSON.stringify(fields)} is refused`, async (t) => {
      const dir = await changedCheckpoint(t, goldenCheckpoint(name), fields)
      const plan = async (): Promise<unknown> => planBlobs(await openCheckpoint(dir), { kind: 'f32', block: 0 })
      await assert.rejects(plan, { name: 'ModelError', message })
    })
  }
}
