import { createBlobStore } from './model/blob-store.ts'
import type { BlobStore } from './model/blob-store.ts'
import { digestHex } from './model/digest.ts'
import { EMBEDDED_NAME, ensureEmbeddedModel } from './model/embedded.ts'
import type { EmbeddedOptions } from './model/embedded.ts'
import { openModel } from './model/library.ts'
import type { ShardEntry } from './model/manifest.ts'
import type { ModelPackage } from './model/package.ts'
import { openTokenizer } from './model/tokenizer.ts'
import { ModelMissingError } from './errors.ts'
import type { Config } from './config.ts'
import type { Engine, Experts } from './engine/engine.ts'
import type { DrivenModel } from './driver/generation.ts'
import { chooseShards } from './router/shard-choice.ts'

/** A model of this node: its trunk and tokenizer to drive queries, and the experts that are hosted here. */
export interface ServedModel extends DrivenModel {
  readonly experts: Experts
  /** Shards opened here. */
  readonly shards: readonly ShardEntry[]
  /** Seconds since 1970. */
  readonly openedAt: number
}

/** Opens the configured models: packs the embedded one on first use or when it is damaged, loads trunks and the chosen shards. */
export async function openServedModels(config: Config, engine: Engine, peer: string, options: EmbeddedOptions): Promise<ServedModel[]> {
  const store = createBlobStore({ dir: config.storeDir })
  const models: ServedModel[] = []
  for (const name of config.models) models.push(await openServedModel(await openPackage(store, name, options), config, engine, peer))
  return models
}

async function openPackage(store: BlobStore, name: string, options: EmbeddedOptions): Promise<ModelPackage> {
  if (name === EMBEDDED_NAME) return ensureEmbeddedModel(store, options)
  try {
    return await openModel(store, name)
  } catch (error) {
    if (!(error instanceof ModelMissingError)) throw error
    throw new ModelMissingError(`--model ${name}: ${error.message}`, { cause: error })
  }
}

async function openServedModel(model: ModelPackage, config: Config, engine: Engine, peer: string): Promise<ServedModel> {
  const shards = model.manifest.blobs.filter((blob) => blob.role === 'experts')
  const chosen = chooseShards(config.host, shards, peer)
  const experts = await engine.openExperts(model)
  for (const shard of chosen) await experts.openShard(shard.layer, shard.first)
  return {
    id: model.id,
    digest: digestHex(model.id),
    manifest: model.manifest,
    trunk: await engine.openTrunk(model),
    tokenizer: await openTokenizer(model),
    experts,
    shards: chosen,
    openedAt: Math.floor(Date.now() / 1000),
  }
}

/** One bitmap per layer: bit `e & 7` of byte `e >> 3` is set for a hosted expert e. */
export function holdingsOf(model: ServedModel): Uint8Array[] {
  const { layers, experts } = model.manifest.config
  const bitmaps = Array.from({ length: layers }, () => new Uint8Array(Math.ceil(experts / 8)))
  for (const shard of model.shards) {
    for (let expert = shard.first; expert <= shard.last; expert++) bitmaps[shard.layer]![expert >> 3]! |= 1 << (expert & 7)
  }
  return bitmaps
}
