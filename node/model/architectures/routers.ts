import type { HfConfig } from '../hf-config.ts'
import type { RouterConfig } from '../model-config.ts'
import { MODEL_LIMITS } from '../model-limits.ts'
import { readExpertsPerToken } from './common-config.ts'

/** The router of DeepSeek-V3 (arXiv 2412.19437, 2.1.2) and GLM-4.5: sigmoid scores, a bias for the choice only, groups. */
export function readSigmoidRouter(hf: HfConfig, experts: number, defaults: { readonly scale: number }): RouterConfig {
  const scoring = hf.raw('scoring_func')
  if (scoring !== undefined && scoring !== 'sigmoid') throw hf.unsupported('scoring_func', 'this architecture has sigmoid')
  const method = hf.raw('topk_method')
  if (method !== undefined && method !== 'noaux_tc') throw hf.unsupported('topk_method', 'this architecture has noaux_tc')
  return {
    scoring: 'sigmoid',
    bias: 'choice',
    groups: readGroups(hf, experts, 'best-two'),
    normalise: hf.flag('norm_topk_prob', true),
    scale: hf.positive('routed_scaling_factor', defaults.scale),
  }
}

/** `n_group` and `topk_group`; null where the limit lets all experts through. */
export function readGroups(hf: HfConfig, experts: number, score: 'best' | 'best-two'): RouterConfig['groups'] {
  const count = hf.count('n_group', MODEL_LIMITS.experts, 1)
  const chosen = hf.count('topk_group', count, count)
  if (experts % count !== 0) throw hf.unsupported('n_group', `it does not divide the ${experts} experts`)
  if (chosen === count) return null
  const size = experts / count
  if (score === 'best-two' && size < 2) throw hf.unsupported('n_group', 'groups of one expert have no best two')
  if (readExpertsPerToken(hf, experts) > chosen * size) {
    throw hf.unsupported('num_experts_per_tok', `${chosen} of ${count} groups of ${experts} experts hold only ${chosen * size}`)
  }
  return { count, chosen, score }
}

/** The shared experts of DeepSeek and GLM, which are one MLP as wide as all of them; null when there are none. */
export function readSharedExperts(hf: HfConfig, expertSize: number): { readonly size: number; readonly gated: false } | null {
  const count = hf.whole('n_shared_experts', MODEL_LIMITS.experts, 0)
  return count === 0 ? null : { size: count * expertSize, gated: false }
}
