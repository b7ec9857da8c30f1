import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { BlobStore } from './blob-store.ts'
import { findModelId, openModel, registerModel } from './library.ts'
import { acquireLock } from './lock-file.ts'
import { packCheckpoint } from './pack.ts'
import type { ModelPackage } from './package.ts'
import { isMeshError } from '../../protocols/wire/errors.ts'

/** Reserved for the model that comes with the program. */
export const EMBEDDED_NAME = 'ember'
/** Folder of its checkpoint. */
export const EMBEDDED_CHECKPOINT = fileURLToPath(new URL('ember/', import.meta.url))
/** What packing {@link EMBEDDED_NAME} gives; a test compares them, and every node of a swarm agrees on it. */
export const EMBEDDED_ID = 'bafkreifocpw4witipu5gmcrhzhbe34h2xfy3wwvjspfgvru6ykg5pruiay'

/** Packing takes under a second; after this long a waiter packs too, which is harmless. */
const LOCK_TIMEOUT_MS = 15_000

export interface EmbeddedOptions {
  readonly signal?: AbortSignal
  /** Hears what was wrong with a model that was there and had to be packed again. */
  readonly onDamage?: (error: Error) => void
}

/**
 * The embedded model, packed on first use and again if a blob is missing or corrupt.
 * Processes that share the store wait for the one that packs. Throws `ModelError`, or `signal.reason`.
 */
export async function ensureEmbeddedModel(store: BlobStore, options: EmbeddedOptions = {}): Promise<ModelPackage> {
  const { signal } = options
  const ready = await openIntact(store, options)
  if (ready !== undefined) return ready
  await mkdir(store.dir, { recursive: true })
  const release = await acquireLock(join(store.dir, `${EMBEDDED_NAME}.lock`), LOCK_TIMEOUT_MS, signal)
  try {
    return (
      (await openIntact(store, signal === undefined ? {} : { signal })) ??
      (await packCheckpoint({
        dir: EMBEDDED_CHECKPOINT,
        store,
        quant: 'f32',
        name: EMBEDDED_NAME,
        ...(signal === undefined ? {} : { signal }),
      }))
    )
  } finally {
    await release()
  }
}

/** The packed model if every blob is there with the right content; corrupt ones are put aside by the store. */
async function openIntact(store: BlobStore, { signal, onDamage }: EmbeddedOptions): Promise<ModelPackage | undefined> {
  try {
    const model = await openModel(store, EMBEDDED_ID)
    for (const blob of model.manifest.blobs) {
      signal?.throwIfAborted()
      await model.blobPath(blob.cid)
    }
    if ((await findModelId(store, EMBEDDED_NAME)) !== EMBEDDED_ID) await registerModel(store, EMBEDDED_NAME, EMBEDDED_ID)
    return model
  } catch (error) {
    if (isMeshError(error, 'ModelMissingError')) return undefined
    if (!isMeshError(error, 'ModelError')) throw error
    onDamage?.(error as Error)
    return undefined
  }
}
