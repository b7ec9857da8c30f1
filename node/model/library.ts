import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { ModelError, ModelMissingError } from '../errors.ts'
import { isBlobCid } from './blob-cid.ts'
import type { BlobStore } from './blob-store.ts'
import { errorCode, parseJsonObject, readJsonObject, readSmallFile, writeFileAtomic } from './files.ts'
import { MODEL_LIMITS } from './model-limits.ts'
import type { ModelPackage } from './package.ts'
import { MODEL_NAME, parseManifest } from './validate-manifest.ts'

const MAX_POINTER_BYTES = 4096

/** A model registered in a store under its friendly name. */
export interface ModelListing {
  readonly name: string
  /** CID of the manifest. */
  readonly id: string
  /** Seconds since 1970. */
  readonly createdAt: number
}

/** Makes a packed model visible under a name; a model of that name before is replaced. The last step of packing. */
export async function registerModel(store: BlobStore, name: string, id: string): Promise<void> {
  await mkdir(modelsDir(store), { recursive: true })
  const pointer = { manifest: id, createdAt: Math.floor(Date.now() / 1000) }
  await writeFileAtomic(pointerPath(store, name), `${JSON.stringify(pointer)}\n`)
}

/** CID of the manifest registered under a name. Throws `ModelError` when the entry is damaged. */
export async function findModelId(store: BlobStore, name: string): Promise<string | undefined> {
  return MODEL_NAME.test(name) ? (await readPointer(store, name))?.id : undefined
}

/** The models of a store, by name. Throws `ModelError` when an entry is damaged. */
export async function listModels(store: BlobStore): Promise<ModelListing[]> {
  let files: string[]
  try {
    files = await readdir(modelsDir(store))
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return []
    throw error
  }
  const names = files.filter((file) => file.endsWith('.json')).map((file) => file.slice(0, -'.json'.length))
  const listings = await Promise.all(names.filter((name) => MODEL_NAME.test(name)).map((name) => readPointer(store, name)))
  return listings.filter((listing) => listing !== undefined).sort((a, b) => (a.name < b.name ? -1 : 1))
}

/**
 * Opens a model by friendly name or by the CID of its manifest.
 * Throws `ModelMissingError` when the store has none such, `ModelError` when its manifest is missing, corrupt or malformed.
 */
export async function openModel(store: BlobStore, nameOrCid: string): Promise<ModelPackage> {
  const id = isBlobCid(nameOrCid) ? nameOrCid : await findByName(store, nameOrCid)
  if (!(await store.has(id)))
    throw new ModelMissingError(`this node does not have model ${nameOrCid}: its manifest is not in ${store.dir}; pack it again`)
  const content = await readSmallFile(await store.path(id), MODEL_LIMITS.manifestBytes)
  const manifest = parseManifest(parseJsonObject(content?.toString('utf8') ?? '', `manifest ${id}`), `manifest ${id}`)
  return { id, manifest, blobPath: (cid, options) => store.path(cid, options) }
}

/** Deletes blobs that no model of the store has. */
export async function removeUnused(store: BlobStore, cids: readonly string[]): Promise<void> {
  const used = new Set<string>()
  for (const { id } of await listModels(store)) {
    const { manifest } = await openModel(store, id)
    for (const { cid } of manifest.blobs) used.add(cid)
  }
  for (const cid of cids) if (!used.has(cid)) await store.delete(cid)
}

async function findByName(store: BlobStore, name: string): Promise<string> {
  const id = await findModelId(store, name)
  if (id !== undefined) return id
  const known = (await listModels(store)).map((model) => model.name)
  throw new ModelMissingError(
    `this node has no model ${JSON.stringify(name.slice(0, 80))}; it has: ${known.join(', ') || 'none'}. Pack one with "skein pack <dir>"`,
  )
}

async function readPointer(store: BlobStore, name: string): Promise<ModelListing | undefined> {
  const path = pointerPath(store, name)
  const fields = await readJsonObject(path, MAX_POINTER_BYTES)
  if (fields === undefined) return undefined
  const { manifest, createdAt } = fields
  if (typeof manifest !== 'string' || !isBlobCid(manifest) || typeof createdAt !== 'number') {
    throw new ModelError(`${path} is damaged: delete it and pack the model again`)
  }
  return { name, id: manifest, createdAt }
}

function modelsDir(store: BlobStore): string {
  return join(store.dir, 'models')
}

function pointerPath(store: BlobStore, name: string): string {
  return join(modelsDir(store), `${name}.json`)
}
