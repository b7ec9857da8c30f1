/**
 * Placement by `node/router/placement.ts` in simulated swarms of 10 to 1,000 nodes under churn, and hosts per token and layer against
 * random placement, on the embedded model's real routing and on a large model's shape.
 */
import { join } from 'node:path'
import { recordTrace } from '../../node/driver/routing-trace.ts'
import { createEngine } from '../../node/engine/onnx-engine.ts'
import { Xoshiro128 } from '../../node/engine/random.ts'
import { createBlobStore } from '../../node/model/blob-store.ts'
import { ensureEmbeddedModel } from '../../node/model/embedded.ts'
import type { ShardPair } from '../../node/router/placement.ts'
import { traceHeat, tracePairs } from '../../node/router/routing-trace.ts'
import type { RoutingTrace } from '../../node/router/routing-trace.ts'
import { benchMain, wholeNumber } from './bench.ts'
import type { Bench } from './bench.ts'
import { figure } from './figures.ts'
import type { Bar, Figure } from './figures.ts'
import { CALM_ROUNDS, holdersOf, hostsNeeded, simulate } from './placement-simulation.ts'
import type { SimulatedModel, SimulationResult } from './placement-simulation.ts'
import { shuffledPrompts } from './prompts.ts'

const TRACE_TOKENS = 150
/** As Qwen3-30B-A3B: 48 layers of 128 experts in shards of 8, top 8, popularity as mesh-llm measured it (the top quarter carries half). */
const LARGE = Object.freeze({ layers: 48, perLayer: 16, perShard: 8, expertsPerToken: 8, shardBytes: 24e6 })
const LARGE_TOKENS = 400
/** The bar: a quarter fewer hosts than random placement. */
const BAR = Object.freeze({ atMost: 0.75 }) satisfies Bar

type Flag = 'nodes' | 'rounds' | 'churn' | 'replicas'

export const placementBench: Bench<Flag> = {
  name: 'placement',
  defaults: { nodes: '10,20,30,100,300,1000', rounds: '60', churn: '2', replicas: '3' },

  async run({ workspace, seed, flags }) {
    const rounds = wholeNumber(flags.rounds, 'rounds', CALM_ROUNDS + 1)
    const replicas = wholeNumber(flags.replicas, 'replicas', 1)
    const churn = wholeNumber(flags.churn, 'churn', 0) / 100
    const model = await ensureEmbeddedModel(createBlobStore({ dir: join(workspace.dir, 'blobs') }))
    const engine = createEngine({ threads: 1 })
    const trace = await recordTrace(engine, model, { prompts: shuffledPrompts(seed), maxTokens: TRACE_TOKENS, seed })
    await engine.close()
    const shards = model.manifest.blobs.filter((blob) => blob.role === 'experts')
    const perLayer = shards.length / trace.layers
    const small = { trace, model: fromTrace(trace, perLayer, shards[0]!.bytes) }
    const largeTrace = syntheticTrace(seed)
    const large = { trace: largeTrace, model: fromTrace(largeTrace, LARGE.perLayer, LARGE.shardBytes) }
    const figures: Figure[] = []
    for (const text of flags.nodes.split(',')) {
      const nodes = wholeNumber(text, 'nodes', 2)
      // Small swarms hold the embedded model, large ones a large model; nodes differ fourfold in what they give.
      const budget: readonly [number, number] = [(0.4 * replicas) / nodes, (1.6 * replicas) / nodes]
      const setting = nodes <= 30 ? small : large
      const name = `${nodes} nodes, ${nodes <= 30 ? 'ember' : '48 × 128 experts'}`
      const result = simulate({ model: setting.model, nodes, budget, churn, rounds, seed: seed + nodes })
      figures.push(...describe(name, result, setting.trace, setting.model))
    }
    return figures
  },
}

function describe(name: string, result: SimulationResult, trace: RoutingTrace, model: SimulatedModel): Figure[] {
  const { rounds } = result
  const filled = rounds.findIndex(({ doubled }) => doubled === 1)
  const shaken = rounds.slice(CALM_ROUNDS)
  const total = model.layers * model.perLayer * model.shardBytes
  const one = (what: string, unit: string, value: number): Figure => figure(`${name}: ${what}`, unit, [value])
  const [placed, random] = [result.placement, result.random].map((placement) => hostsPerToken(trace, model, placement))
  return [
    one('rounds until all have 2 hosts', '', filled === -1 ? Infinity : filled + 1),
    figure(
      `${name}: covered under churn`,
      '%',
      shaken.map(({ covered }) => covered * 100),
    ),
    figure(
      `${name}: with 2 hosts under churn`,
      '%',
      shaken.map(({ doubled }) => doubled * 100),
    ),
    figure(
      `${name}: moved per round under churn`,
      '% of model',
      shaken.map(({ movedBytes }) => (movedBytes / total) * 100),
    ),
    one('moved in the last calm round', '% of model', (rounds[CALM_ROUNDS - 1]!.movedBytes / total) * 100),
    one('hosts of a shard', '', result.meanReplicas),
    one('hosts of the hottest tenth', '', result.hotReplicas),
    one('hosts per token and layer, random', '', random!),
    one('hosts per token and layer, placed', '', placed!),
    // Where random placement needs hardly more than one host there is no quarter to gain.
    figure(`${name}: hosts, placed to random`, '×', [placed! / random!], random! * BAR.atMost > 1 ? BAR : null),
  ]
}

/** Mean over the tokens and layers of the trace of which all shards have a host somewhere. */
function hostsPerToken(trace: RoutingTrace, model: SimulatedModel, placement: readonly ReadonlySet<number>[]): number {
  const holders = holdersOf(placement, model.layers * model.perLayer)
  const perShard = trace.experts / model.perLayer
  let hosts = 0
  let layers = 0
  for (const sequence of trace.sequences) {
    sequence.forEach((chosen, layer) => {
      for (let from = 0; from < chosen.length; from += trace.expertsPerToken) {
        const shards = new Set(
          chosen.slice(from, from + trace.expertsPerToken).map((expert) => layer * model.perLayer + Math.floor(expert / perShard)),
        )
        const needed = hostsNeeded([...shards], holders)
        if (!Number.isFinite(needed)) continue
        hosts += needed
        layers++
      }
    })
  }
  return hosts / layers
}

/** Heat and pairs of shards, from those of experts. */
function fromTrace(trace: RoutingTrace, perLayer: number, shardBytes: number): SimulatedModel {
  const perShard = trace.experts / perLayer
  const shardAt = (layer: number, expert: number): number => layer * perLayer + Math.floor(expert / perShard)
  const heat = new Float64Array(trace.layers * perLayer)
  traceHeat(trace).forEach((count, at) => (heat[shardAt(Math.floor(at / trace.experts), at % trace.experts)]! += count))
  const rates = new Map<string, ShardPair>()
  for (const { layer, a, b, rate } of tracePairs(trace)) {
    const [from, to] = [shardAt(layer, a), shardAt(layer, b)]
    if (from !== to) rates.set(`${from}/${to}`, { a: from, b: to, rate: rate + (rates.get(`${from}/${to}`)?.rate ?? 0) })
  }
  const pairs = [...rates.values()]
  return { layers: trace.layers, perLayer, shardBytes, heat, pairs }
}

/** Tokens of a few topics, each with favourite experts in every layer: skewed and co-activated as trained routers are. */
function syntheticTrace(seed: number): RoutingTrace {
  const random = Xoshiro128.fromSeed(seed)
  const experts = LARGE.perLayer * LARGE.perShard
  const topics = 12
  const draw = (): number => Math.floor(random.nextFloat() ** 2 * experts)
  const favourites = Array.from({ length: topics * LARGE.layers }, () => Array.from({ length: 2 * LARGE.expertsPerToken }, draw))
  const sequence = Array.from({ length: LARGE.layers }, (): number[] => [])
  for (let token = 0; token < LARGE_TOKENS; token++) {
    const topic = Math.floor(random.nextFloat() * topics)
    for (let layer = 0; layer < LARGE.layers; layer++) {
      const liked = favourites[topic * LARGE.layers + layer]!
      const chosen = new Set<number>()
      while (chosen.size < LARGE.expertsPerToken) {
        chosen.add(
          random.nextFloat() < 0.8 && chosen.size < liked.length / 2 ? liked[Math.floor(random.nextFloat() * liked.length)]! : draw(),
        )
      }
      sequence[layer]!.push(...chosen)
    }
  }
  return { layers: LARGE.layers, experts, expertsPerToken: LARGE.expertsPerToken, sequences: [sequence] }
}

if (import.meta.main) await benchMain(placementBench.name, [placementBench])
