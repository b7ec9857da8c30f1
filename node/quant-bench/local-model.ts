import type { Engine, Experts, KvCache, Trunk } from '../engine/engine.ts'
import { picksOf } from '../engine/picks.ts'
import type { ModelPackage } from '../model/package.ts'

/** A whole model in this process: trunk and all experts, no swarm. */
export class LocalModel {
  readonly trunk: Trunk
  readonly #experts: Experts

  private constructor(trunk: Trunk, experts: Experts) {
    this.trunk = trunk
    this.#experts = experts
  }

  static async open(engine: Engine, model: ModelPackage): Promise<LocalModel> {
    const experts = await engine.openExperts(model)
    for (const blob of model.manifest.blobs) if (blob.role === 'experts') await experts.openShard(blob.layer, blob.first)
    return new LocalModel(await engine.openTrunk(model), experts)
  }

  /** Appends as many tokens to each sequence; logits of all of them, sequence by sequence: [tokens of all, vocab]. */
  async feed(sequences: readonly { readonly cache: KvCache; readonly tokens: readonly number[] }[]): Promise<Float32Array> {
    const { layers, experts } = this.trunk.config
    const pass = this.trunk.beginPass(sequences)
    try {
      for (let layer = 0; layer < layers; layer++) {
        const routing = await pass.attend(layer)
        if (routing === null) continue
        const picks = picksOf(routing, pass.rows, experts)
        pass.moe.set(await this.#experts.run({ layer, x: routing.x, rows: pass.rows, ...picks }))
      }
      const logits = await pass.logits(Array.from({ length: pass.rows }, (_, row) => row))
      pass.commit()
      return logits
    } finally {
      pass.close()
    }
  }

  async close(): Promise<void> {
    await this.#experts.close()
    await this.trunk.close()
  }
}
