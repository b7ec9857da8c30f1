import type { TrunkPass } from '../engine/engine.ts'
import { picksOf } from '../engine/picks.ts'
import type { Dispatcher, DispatchContext } from './dispatcher.ts'
import { expertRuns } from './expert-group.ts'
import type { DrivenModel } from './generation.ts'
import type { RoutingCounts } from './routing-counts.ts'

/** Rows with which a pass goes on by itself. More of them take a layer so long that stops don't count, and cancelled queries end between layers. */
export const MAX_ADVANCE_ROWS = 16

export interface LayerLoopComponents {
  readonly dispatcher: Pick<Dispatcher, 'run' | 'soleExperts' | 'ranHere'>
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
  while (pass.nextLayer < layers) {
    context.scope.throwIfCancelled()
    const sole = pass.rows <= MAX_ADVANCE_ROWS ? dispatcher.soleExperts(context) : null
    const { done, routing } = sole === null ? { done: [], routing: await pass.attend(pass.nextLayer) } : await pass.advance(sole)
    for (const ran of done) {
      counts.add(id, ran.layer, ran.experts, pass.rows)
      dispatcher.ranHere(context, ran, pass.rows)
    }
    if (routing === null) continue
    const layer = pass.nextLayer - 1
    const picks = picksOf(routing, pass.rows, experts)
    const chosen = routing.experts.slice()
    // Once the calls are on their way: hosts need not wait for it.
    setImmediate(() => counts.add(id, layer, chosen, pass.rows))
    await dispatcher.run(context, { layer, rows: pass.rows, width: hiddenSize, x: routing.x, picks, runs: expertRuns(picks) }, pass.moe)
  }
}
