/**
 * Names of weights in GGUF files (gguf-py's tensor_mapping.py), from their Hugging Face names. `expert`: the weight is this element of a
 * tensor that holds those of all experts of the layer.
 */
export interface GgufName {
  readonly name: string
  readonly expert?: number
}

const WHOLE: Readonly<Record<string, string>> = {
  'model.embed_tokens.weight': 'token_embd.weight',
  'model.norm.weight': 'output_norm.weight',
  'lm_head.weight': 'output.weight',
}

/** Parts of a layer, without `.weight` and `.bias`. */
const PARTS: Readonly<Record<string, string>> = {
  input_layernorm: 'attn_norm',
  post_attention_layernorm: 'ffn_norm',
  'self_attn.q_proj': 'attn_q',
  'self_attn.k_proj': 'attn_k',
  'self_attn.v_proj': 'attn_v',
  'self_attn.o_proj': 'attn_output',
  'self_attn.q_norm': 'attn_q_norm',
  'self_attn.k_norm': 'attn_k_norm',
  'self_attn.q_a_proj': 'attn_q_a',
  'self_attn.q_a_layernorm': 'attn_q_a_norm',
  'self_attn.q_b_proj': 'attn_q_b',
  'self_attn.kv_a_proj_with_mqa': 'attn_kv_a_mqa',
  'self_attn.kv_a_layernorm': 'attn_kv_a_norm',
  'self_attn.kv_b_proj': 'attn_kv_b',
  'mlp.gate': 'ffn_gate_inp',
  'mlp.router': 'ffn_gate_inp',
  'block_sparse_moe.gate': 'ffn_gate_inp',
  'block_sparse_moe.router.layer': 'ffn_gate_inp',
  'mlp.shared_expert_gate': 'ffn_gate_inp_shexp',
  'mlp.gate_proj': 'ffn_gate',
  'mlp.up_proj': 'ffn_up',
  'mlp.down_proj': 'ffn_down',
}

const EXPERT = /^(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(gate_proj|up_proj|down_proj|w1|w2|w3)$/
const SHARED = /^mlp\.shared_experts?\.(gate|up|down)_proj$/
const PROJECTIONS: Readonly<Record<string, string>> = {
  gate_proj: 'gate',
  up_proj: 'up',
  down_proj: 'down',
  w1: 'gate',
  w3: 'up',
  w2: 'down',
}

/** Undefined for names that no architecture read here has. */
export function ggufName(name: string): GgufName | undefined {
  const whole = WHOLE[name]
  if (whole !== undefined) return { name: whole }
  const [, layer, rest, kind] = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name) ?? []
  if (layer === undefined || rest === undefined || kind === undefined) return special(name)
  const [, expert, projection] = EXPERT.exec(rest) ?? []
  if (expert !== undefined) return { name: `blk.${layer}.ffn_${PROJECTIONS[projection!]!}_exps.${kind}`, expert: Number(expert) }
  const shared = SHARED.exec(rest)?.[1]
  const part = shared === undefined ? PARTS[rest] : `ffn_${shared}_shexp`
  return part === undefined ? undefined : { name: `blk.${layer}.${part}.${kind}` }
}

/** Names that end in neither weight nor bias. */
function special(name: string): GgufName | undefined {
  const [, layer, rest] = /^model\.layers\.(\d+)\.(.+)$/.exec(name) ?? []
  if (rest === 'self_attn.sinks') return { name: `blk.${layer}.attn_sinks.weight` }
  if (rest === 'mlp.gate.e_score_correction_bias') return { name: `blk.${layer}.exp_probs_b.bias` }
  return undefined
}
