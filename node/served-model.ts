import type { BlobStore } from './model/blob-store.ts'
import { digestHex } from './model/digest.ts'
import { EMBEDDED_NAME, ensureEmbeddedModel } from './model/embedded.ts'
import type { EmbeddedOptions } from './model/embedded.ts'
import { openModel } from './model/library.ts'
import type { ModelPackage } from './model/package.ts'
import { openTokenizer } from './model/tokenizer.ts'
import { ModelMissingError } from './errors.ts'
import type { Engine } from './engine/engine.ts'
import type { DrivenModel } from './driver/generation.ts'

/** A model whose queries this node drives: its trunk and tokenizer are open. What is hosted of its experts is `Hosting`'s. */
export interface ServedModel extends DrivenModel {
  readonly package: ModelPackage
  /** Seconds since 1970. */
  readonly openedAt: number
}

/** Opens the named models: packs the embedded one on first use or when it is damaged, loads trunks and tokenizers. */
export async function openServedModels(
  names: readonly string[],
  engine: Engine,
  store: BlobStore,
  options: EmbeddedOptions,
): Promise<ServedModel[]> {
  const models: ServedModel[] = []
  for (const name of names) models.push(await openServedModel(await openPackage(store, name, options), engine))
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

async function openServedModel(model: ModelPackage, engine: Engine): Promise<ServedModel> {
  return {
    id: model.id,
    digest: digestHex(model.id),
    manifest: model.manifest,
    trunk: await engine.openTrunk(model),
    tokenizer: await openTokenizer(model),
    package: model,
    openedAt: Math.floor(Date.now() / 1000),
  }
}
