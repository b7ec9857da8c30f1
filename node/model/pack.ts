import { statfs } from 'node:fs/promises'
import { basename, resolve } from 'node:path'
import { DiskFullError, ModelError } from '../errors.ts'
import { isMeshError } from '../../protocols/wire/errors.ts'
import { blobBytes, sourceBytes } from './blob-spec.ts'
import type { BlobStore } from './blob-store.ts'
import { canonicalJson } from './canonical-json.ts'
import { openCheckpoint } from './checkpoint.ts'
import type { Checkpoint } from './checkpoint.ts'
import { BLOCKS, expertLayout } from './layout.ts'
import { openModel, registerModel, removeUnused } from './library.ts'
import type { BlobEntry, Manifest, Quant, QuantKind } from './manifest.ts'
import { PackJournal } from './pack-journal.ts'
import { planBlobs } from './pack-plan.ts'
import type { BlobPlan } from './pack-plan.ts'
import { writeBlobs } from './pack-pool.ts'
import type { ModelPackage } from './package.ts'
import { MODEL_NAME, parseManifest } from './validate-manifest.ts'

export const DEFAULTS = Object.freeze({ block: 128 })

/** Bytes of the checkpoint's weights that are packed, those of an earlier run included, and in all. */
export interface PackProgress {
  readonly bytes: number
  readonly totalBytes: number
}

export interface PackOptions {
  /** Folder of a Hugging Face checkpoint, or path of a GGUF file. */
  readonly dir: string
  readonly store: BlobStore
  readonly quant: QuantKind
  /** Weights per scale of q4 and q8; defaults to {@link DEFAULTS}. */
  readonly block?: number
  /** How the trunk's weights are stored beside experts in q4; as the experts' by default. */
  readonly trunk?: 'q4' | 'q8'
  /** Friendly name; by default the folder's name and the kind of quantisation. */
  readonly name?: string
  /** `optional` also packs a checkpoint without tokenizer.json; such a model takes token ids only. Required by default. */
  readonly tokenizer?: 'required' | 'optional'
  /** Worker threads at most; by default one per core, at most eight. */
  readonly threads?: number
  readonly onProgress?: (progress: PackProgress) => void
  readonly signal?: AbortSignal
}

/**
 * Packs a checkpoint into blobs and a manifest; the model becomes visible in the store in the last step. Memory: below 2 GB whatever the
 * model's size. When it was cut off, the same call goes on from the blobs that were complete. Throws `ModelError`, `signal.reason`, or
 * `DiskFullError`, after which nothing of this packing is left in the store.
 */
export async function packCheckpoint(options: PackOptions): Promise<ModelPackage> {
  const quant = readQuant(options)
  const name = options.name ?? modelName(options.dir, quant.kind)
  if (!MODEL_NAME.test(name)) {
    throw new ModelError(`${JSON.stringify(name)} can't be a model's name: use at most 64 lower case letters, digits, ".", "_" and "-"`)
  }
  const checkpoint = await openCheckpoint(options.dir)
  if (options.tokenizer !== 'optional' && !checkpoint.tokenizer.some((file) => file.name === 'tokenizer.json')) {
    throw new ModelError(`${options.dir} has no tokenizer.json: get it from the model's page, or convert the tokenizer to that format`)
  }
  const plans = planBlobs(checkpoint, quant)
  const journal = await PackJournal.open(
    options.store,
    plans.map(({ spec }) => spec),
    checkpoint.tensors.files,
  )
  const written = new Map<number, string>()
  try {
    await writeWeights(options, plans, journal, written)
    const blobs = [...plans.map(({ entry }, i) => entry(written.get(i)!)), ...(await writeTokenizer(options, checkpoint))]
    const expert = expertLayout(checkpoint.config, quant)
    const manifest: Manifest = {
      format: 'skein-model/1',
      name,
      config: checkpoint.config,
      quant,
      expertLayout: { stride: expert.bytes, tensors: expert.tensors },
      blobs,
      generation: checkpoint.generation,
    }
    const content = Buffer.from(canonicalJson(parseManifest(manifest, `manifest of ${name}`)))
    const { cid } = await options.store.write(single(content), signalOf(options))
    await registerModel(options.store, name, cid)
    await journal.remove()
    return await openModel(options.store, cid)
  } catch (error) {
    if (isMeshError(error, 'DiskFullError')) {
      await journal.remove()
      await removeUnused(options.store, [...written.values()])
    }
    throw error
  }
}

function readQuant(options: PackOptions): Quant {
  const { trunk } = options
  if (trunk !== undefined && options.quant !== 'q4') throw new ModelError(`the trunk can be ${trunk} only beside experts in q4`)
  if (options.quant === 'f32' || options.quant === 'f16') return { kind: options.quant, block: 0 }
  const block = options.block ?? DEFAULTS.block
  if (!BLOCKS.includes(block)) throw new ModelError(`block ${block} is not possible: use one of ${BLOCKS.toReversed().join(', ')}`)
  return { kind: options.quant, block, ...(trunk === 'q8' ? { trunk } : {}) }
}

/** A model's friendly name by default, from the path of its checkpoint and the kind of quantisation. */
export function modelName(path: string, kind: QuantKind): string {
  const slug = basename(resolve(path))
    .toLowerCase()
    .replace(/\.gguf$/, '')
    .replaceAll(/[^a-z0-9._-]+/g, '-')
    .replace(/^[^a-z0-9]+/, '')
  return `${slug.slice(0, 59)}-${kind}`
}

/** Writes what the journal does not know yet; `written` takes the CID of every plan, by its index. */
async function writeWeights(
  options: PackOptions,
  plans: readonly BlobPlan[],
  journal: PackJournal,
  written: Map<number, string>,
): Promise<void> {
  const { store, onProgress, signal } = options
  const totalBytes = plans.reduce((sum, { spec }) => sum + sourceBytes(spec), 0)
  for (const index of plans.keys()) {
    const cid = journal.found.get(index)
    signal?.throwIfAborted()
    if (cid !== undefined && (await isIntact(store, cid))) written.set(index, cid)
  }
  let bytes = [...written.keys()].reduce((sum, index) => sum + sourceBytes(plans[index]!.spec), 0)
  onProgress?.({ bytes, totalBytes })
  const missing = [...plans.keys()].filter((index) => !written.has(index))
  await checkSpace(
    store,
    missing.reduce((sum, index) => sum + blobBytes(plans[index]!.spec), 0),
  )
  await writeBlobs({
    store,
    specs: missing.map((index) => plans[index]!.spec),
    ...(options.threads === undefined ? {} : { threads: options.threads }),
    ...signalOf(options),
    onRead: (read) => {
      bytes += read
      onProgress?.({ bytes, totalBytes })
    },
    onWritten: async (at, cid) => {
      const index = missing[at]!
      written.set(index, cid)
      await journal.add(index, cid)
    },
  })
}

async function isIntact(store: BlobStore, cid: string): Promise<boolean> {
  try {
    await store.path(cid)
    return true
  } catch (error) {
    if (isMeshError(error, 'ModelError')) return false
    throw error
  }
}

/** Throws `DiskFullError` when the store's disk plainly can't take the model. */
async function checkSpace(store: BlobStore, needed: number): Promise<void> {
  const { bavail, bsize } = await statfs(store.dir)
  const free = bavail * bsize
  if (free >= needed) return
  throw new DiskFullError(
    `packing needs ${gigabytes(needed)} and ${store.dir} has ${gigabytes(free)} free: free some, choose another --data directory, or a smaller --quant`,
  )
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`
}

async function writeTokenizer(options: PackOptions, { tokenizer }: Checkpoint): Promise<BlobEntry[]> {
  const entries: BlobEntry[] = []
  for (const { name, content } of tokenizer) {
    const { cid, bytes } = await options.store.write(single(content), signalOf(options))
    entries.push({ role: 'tokenizer', name, cid, bytes })
  }
  return entries
}

async function* single(content: Uint8Array): AsyncGenerator<Uint8Array> {
  yield content
}

function signalOf({ signal }: PackOptions): { signal?: AbortSignal } {
  return signal === undefined ? {} : { signal }
}
