import type { LedgerView } from '../crdt/index.ts'
import type { ExpertMap } from './api/services.ts'
import { coverageOf } from './router/coverage.ts'
import type { ServedModel } from './served-model.ts'

export interface ExpertMapsInit {
  readonly models: readonly ServedModel[]
  readonly view: LedgerView
  /** Milliseconds since 1970. */
  readonly nowMs: number
}

/** Pairs shown per layer. */
const MAX_PAIRS = 8

/** Heat and coverage of every expert of the models driven here, as the whole swarm states them. */
export function expertMaps({ models, view, nowMs }: ExpertMapsInit): ExpertMap[] {
  return models.map(({ id, manifest }) => {
    const { layers, experts } = manifest.config
    const heat = view.heat(id, { layers, experts, nowMs })
    const byLayer = <T>(at: (cell: number) => T): T[][] =>
      Array.from({ length: layers }, (_, layer) => Array.from({ length: experts }, (_, expert) => at(layer * experts + expert)))
    const shown = Array.from({ length: layers }, () => 0)
    return {
      model: manifest.name,
      id,
      layers,
      experts,
      authors: heat.authors,
      coverage: coverageOf(manifest, (layer, expert) => view.holders(id, layer, expert).length),
      rates: byLayer((cell) => rounded(heat.rates[cell]!)),
      tokens: byLayer((cell) => Math.round(heat.tokens[cell]!)),
      hosts: byLayer((cell) => view.holders(id, Math.floor(cell / experts), cell % experts).length),
      pairs: heat.pairs.filter(({ layer }) => ++shown[layer]! <= MAX_PAIRS).map((pair) => ({ ...pair, rate: rounded(pair.rate) })),
    }
  })
}

/** To three digits: the map is no more exact than that, and goes to browsers as text. */
function rounded(rate: number): number {
  return Number(rate.toPrecision(3))
}
