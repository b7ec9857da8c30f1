import type { ModelConfig, RouterConfig } from '../../model/model-config.ts'
import type { OnnxGraph } from '../onnx-graph.ts'
import type { BlobWeights } from '../weights.ts'

/** TensorProto.DataType INT32, the `to` of Cast. */
const TO_INT32 = 6
/** Far below any score, and finite: kernels of TopK need not know infinities. */
const NEVER = -1e30

/** `x` → `experts` i32 and `weights` f32, both [1, s, k]. */
export function addRouter(graph: OnnxGraph, weights: BlobWeights, config: ModelConfig): void {
  const { hiddenSize, experts, expertsPerToken, router } = config
  weights.addPlain(graph, 'router', [hiddenSize, experts])
  if (router.bias !== 'none') weights.addPlain(graph, 'router_bias', [experts])
  graph.node('MatMul', ['x', 'router'], ['router_product'])
  const logits = router.bias === 'logits' ? 'router_logits' : 'router_product'
  if (router.bias === 'logits') graph.node('Add', ['router_product', 'router_bias'], [logits])
  if (router.scoring === 'softmax') graph.node('Softmax', [logits], ['scores'], { axis: -1 })
  else graph.node('Sigmoid', [logits], ['scores'])

  const biased = router.bias === 'choice' ? 'choice_scores' : 'scores'
  if (router.bias === 'choice') graph.node('Add', ['scores', 'router_bias'], [biased])
  const choosing = router.groups === null ? biased : addGroupLimit(graph, biased, experts, router.groups)
  const scale = router.scale * config.scales.residual
  const unscaled = scale === 1 ? 'weights' : 'unscaled_weights'
  const chosen = router.normalise ? 'chosen_scores' : unscaled
  graph.constant('top_k', [1], BigInt64Array.of(BigInt(expertsPerToken)))
  // What experts are chosen by is not what they weigh where a bias or a mask went into it.
  const byScore = choosing === 'scores'
  graph.node('TopK', [choosing, 'top_k'], [byScore ? chosen : 'chosen_by', 'experts_i64'], { axis: -1, largest: 1, sorted: 1 })
  graph.node('Cast', ['experts_i64'], ['experts'], { to: TO_INT32 })
  if (!byScore) graph.node('GatherElements', ['scores', 'experts_i64'], [chosen], { axis: -1 })
  if (router.normalise) {
    graph.constant('last_axis', [1], BigInt64Array.of(-1n))
    graph.node('ReduceSum', [chosen, 'last_axis'], ['chosen_sum'], { keepdims: 1 })
    graph.node('Div', [chosen, 'chosen_sum'], [unscaled])
  }
  if (scale !== 1) {
    graph.constant('weight_factor', [], Float32Array.of(scale))
    graph.node('Mul', [unscaled, 'weight_factor'], ['weights'])
  }
}

/** Scores with those outside the best groups put out of reach; returns their name. */
function addGroupLimit(graph: OnnxGraph, scores: string, experts: number, groups: NonNullable<RouterConfig['groups']>): string {
  const { count, chosen, score } = groups
  graph.reshape(scores, 'grouped_scores', [1, -1, count, experts / count])
  graph.constant('per_group', [1], BigInt64Array.of(score === 'best' ? 1n : 2n))
  graph.node('TopK', ['grouped_scores', 'per_group'], ['best_of_group', 'best_of_group_at'], { axis: -1, largest: 1, sorted: 1 })
  graph.constant('group_axis', [1], BigInt64Array.of(-1n))
  graph.node('ReduceSum', ['best_of_group', 'group_axis'], ['group_scores'], { keepdims: 0 })
  graph.constant('groups_chosen', [1], BigInt64Array.of(BigInt(chosen)))
  graph.node('TopK', ['group_scores', 'groups_chosen'], ['chosen_group_scores', 'chosen_groups'], { axis: -1, largest: 1, sorted: 1 })
  // 0 for the chosen groups, NEVER for the others: a one-hot row for each chosen group, of which the largest counts.
  graph.constant('group_count', [], BigInt64Array.of(BigInt(count)))
  graph.constant('never_and_open', [2], Float32Array.of(NEVER, 0))
  graph.node('OneHot', ['chosen_groups', 'group_count', 'never_and_open'], ['open_by_choice'], { axis: -1 })
  graph.constant('choice_axis', [1], BigInt64Array.of(2n))
  graph.node('ReduceMax', ['open_by_choice', 'choice_axis'], ['open_groups'], { keepdims: 0 })
  graph.constant('mask_axis', [1], BigInt64Array.of(3n))
  graph.node('Unsqueeze', ['open_groups', 'mask_axis'], ['group_mask'])
  graph.node('Add', ['grouped_scores', 'group_mask'], ['masked_by_group'])
  graph.reshape('masked_by_group', 'masked_scores', [1, -1, experts])
  return 'masked_scores'
}
