import type { TrunkPass } from '../engine/engine.ts'
import { picksOf } from '../engine/picks.ts'
import type { Dispatcher, DispatchContext } from './dispatcher.ts'
import { expertRuns } from './expert-group.ts'
import type { DrivenModel } from './generation.ts'
import type { RoutingCounts } from './routing-counts.ts'

export interface LayerLoopComponents {
  readonly dispatcher: Pick<Dispatcher, 'run'>
  readonly counts: Pick<RoutingCounts, 'add'>
}

/** Takes the rows of a pass through all layers: trunk here, experts wherever they are. Throws as `Dispatcher.run` does. */
export async function walkLayers(
  { dispatcher, counts }: LayerLoopComponents,
  { id, manifest }: DrivenModel,
  pass: TrunkPass,
  context: DispatchContext,
): Promise<void> {
  const { layers, experts, hiddenSize } = manifest.config
  for (let layer = 0; layer < layers; layer++) {
    context.scope.throwIfCancelled()
    const routing = await pass.attend(layer)
    if (routing === null) continue
    const picks = picksOf(routing, pass.rows, experts)
    counts.add(id, layer, routing.experts, pass.rows)
    await dispatcher.run(context, { layer, rows: pass.rows, width: hiddenSize, x: routing.x, picks, runs: expertRuns(picks) }, pass.moe)
  }
}
