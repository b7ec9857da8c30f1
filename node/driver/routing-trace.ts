import type { Engine, KvCache, Routing } from '../engine/engine.ts'
import { picksOf } from '../engine/picks.ts'
import { Sampler } from '../engine/sampler.ts'
import { expertLayers } from '../model/model-config.ts'
import type { ModelPackage } from '../model/package.ts'
import { openTokenizer } from '../model/tokenizer.ts'
import type { RoutingTrace } from '../router/routing-trace.ts'

export interface RecordInit {
  readonly prompts: readonly string[]
  /** Tokens generated after each prompt. */
  readonly maxTokens: number
  readonly seed: number
}

/** Runs a whole model in this process on the prompts, sampling at temperature 1, and writes down which experts its routers choose. */
export async function recordTrace(engine: Engine, model: ModelPackage, init: RecordInit): Promise<RoutingTrace> {
  const { config } = model.manifest
  const trunk = await engine.openTrunk(model)
  const experts = await engine.openExperts(model)
  const tokenizer = await openTokenizer(model)
  for (const blob of model.manifest.blobs) if (blob.role === 'experts') await experts.openShard(blob.layer, blob.first)
  const layers = expertLayers(config)

  const feed = async (cache: KvCache, tokens: readonly number[], chosen: number[][]): Promise<Float32Array> => {
    const pass = trunk.beginPass([{ cache, tokens }])
    try {
      for (let layer = 0; layer < config.layers; layer++) {
        const routing: Routing | null = await pass.attend(layer)
        if (routing === null) continue
        chosen[layers.indexOf(layer)]!.push(...routing.experts)
        const picks = picksOf(routing, pass.rows, config.experts)
        pass.moe.set(await experts.run({ layer, x: routing.x, rows: pass.rows, ...picks }))
      }
      const logits = await pass.logits([tokens.length - 1])
      pass.commit()
      return logits
    } finally {
      pass.close()
    }
  }

  const sequences: number[][][] = []
  for (const [index, prompt] of init.prompts.entries()) {
    const chosen = layers.map((): number[] => [])
    const cache = trunk.createCache()
    try {
      const ids = tokenizer.encode(prompt)
      const sampling = { temperature: 1, topK: 0, topP: 1, minP: 0, repetitionPenalty: 1, frequencyPenalty: 0, presencePenalty: 0 }
      const sampler = new Sampler({ ...sampling, seed: init.seed + index }, ids)
      let logits = await feed(cache, ids, chosen)
      const room = Math.min(init.maxTokens, config.maxContext - ids.length - 1)
      for (let made = 0; made < room; made++) {
        const id = sampler.next(logits)
        if (tokenizer.isEndOfSequence(id)) break
        logits = await feed(cache, [id], chosen)
      }
    } finally {
      cache.close()
    }
    sequences.push(chosen)
  }
  await experts.close()
  await trunk.close()
  return { layers: layers.length, experts: config.experts, expertsPerToken: config.expertsPerToken, sequences }
}
