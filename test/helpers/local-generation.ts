import type { Engine, Experts, KvCache, Trunk, TrunkPass } from '../../node/engine/engine.ts'
import { picksOf } from '../../node/engine/picks.ts'
import { argmax } from '../../node/engine/sampler.ts'
import type { ModelPackage } from '../../node/model/package.ts'

/** A whole model in one process: what a swarm's answers are compared with. */
export interface LocalModel {
  readonly trunk: Trunk
  readonly experts: Experts
}

/** What the routers chose in one pass: [layer] of [rows, k]. */
export interface PassRouting {
  readonly experts: Int32Array[]
  readonly weights: Float32Array[]
}

/** Opens trunk and all experts of a model. */
export async function openLocally(engine: Engine, model: ModelPackage): Promise<LocalModel> {
  const trunk = await engine.openTrunk(model)
  const experts = await engine.openExperts(model)
  for (const blob of model.manifest.blobs) {
    if (blob.role === 'experts') await experts.openShard(blob.layer, blob.first)
  }
  return { trunk, experts }
}

/** Takes a pass through all layers; experts are summed in the order that defines the bit-exact result. */
export async function runLayers({ trunk, experts }: LocalModel, pass: TrunkPass): Promise<PassRouting> {
  const { layers, experts: expertCount } = trunk.config
  const chosen: PassRouting = { experts: [], weights: [] }
  for (let layer = 0; layer < layers; layer++) {
    const routing = await pass.attend(layer)
    if (routing === null) {
      chosen.experts.push(new Int32Array(0))
      chosen.weights.push(new Float32Array(0))
      continue
    }
    chosen.experts.push(routing.experts.slice())
    chosen.weights.push(routing.weights.slice())
    const picks = picksOf(routing, pass.rows, expertCount)
    pass.moe.set(await experts.run({ layer, x: routing.x, rows: pass.rows, ...picks }))
  }
  return chosen
}

/** Appends tokens to a sequence; logits [rows, vocab] of the last token, or of all. */
export async function feed(
  model: LocalModel,
  cache: KvCache,
  tokens: readonly number[],
  which: 'last' | 'all' = 'last',
): Promise<{ logits: Float32Array; routing: PassRouting }> {
  const pass = model.trunk.beginPass([{ cache, tokens }])
  try {
    const routing = await runLayers(model, pass)
    const logits = await pass.logits(which === 'last' ? [tokens.length - 1] : tokens.map((_, row) => row))
    pass.commit()
    return { logits, routing }
  } finally {
    pass.close()
  }
}

/** The `count` most likely tokens one by one after `prompt`, end tokens included. */
export async function generateGreedily(model: LocalModel, prompt: readonly number[], count: number): Promise<number[]> {
  const cache = model.trunk.createCache()
  try {
    const answer: number[] = []
    let next = prompt
    while (answer.length < count) {
      const { logits } = await feed(model, cache, next)
      const token = argmax(logits)
      answer.push(token)
      next = [token]
    }
    return answer
  } finally {
    cache.close()
  }
}
