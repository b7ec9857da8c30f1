import { z } from 'zod'
import { ModelError } from '../errors.ts'
import { isBlobCid } from './blob-cid.ts'
import { BLOCKS, embeddingLayout, expertLayout, headLayout, layerLayout } from './layout.ts'
import type { Layout } from './layout.ts'
import { configProblem, modelConfig } from './config-schema.ts'
import { isDense } from './model-config.ts'
import type { BlobEntry, Manifest, ShardEntry, TensorEntry } from './manifest.ts'
import { MODEL_LIMITS } from './model-limits.ts'
import { TOKENIZER_FILES } from './tokenizer-files.ts'

/** Friendly names; also safe as file names. */
export const MODEL_NAME = /^[a-z0-9][a-z0-9._-]{0,63}$/

const MAX_TENSORS = 64
const index = (size: number) =>
  z
    .int()
    .min(0)
    .max(size - 1)
const size = z.int().min(0)
const cid = z.string().refine(isBlobCid, 'not a blob id')

const tensor = z.object({
  name: z.string().max(64),
  type: z.enum(['f32', 'f16', 'u8']),
  shape: z.array(size).max(4),
  offset: size,
  bytes: size,
})
const tensors = z.array(tensor).max(MAX_TENSORS)
const blob = z.discriminatedUnion('role', [
  z.object({ role: z.literal('embedding'), cid, bytes: size, tensors }),
  z.object({ role: z.literal('layer'), layer: index(MODEL_LIMITS.layers), cid, bytes: size, tensors }),
  z.object({ role: z.literal('head'), cid, bytes: size, tensors }),
  z.object({
    role: z.literal('experts'),
    layer: index(MODEL_LIMITS.layers),
    first: index(MODEL_LIMITS.experts),
    last: index(MODEL_LIMITS.experts),
    cid,
    bytes: size,
  }),
  z.object({ role: z.literal('tokenizer'), name: z.enum(TOKENIZER_FILES), cid, bytes: size.max(MODEL_LIMITS.tokenizerFileBytes) }),
])

const schema = z.object({
  format: z.literal('skein-model/1'),
  name: z.string().regex(MODEL_NAME),
  config: modelConfig,
  quant: z.object({ kind: z.enum(['f32', 'f16', 'q8', 'q4']), block: size, trunk: z.literal('q8').optional() }),
  expertLayout: z.object({ stride: size, tensors }),
  blobs: z.array(blob).max(MODEL_LIMITS.blobs),
  generation: z.object({
    temperature: z.number().min(0).max(100).optional(),
    topK: size.optional(),
    topP: z.number().positive().max(1).optional(),
  }),
})

/**
 * Checks a manifest from outside: every field, that its blobs hold each part of the model exactly once, and that sizes and tensors are
 * those that its configuration asks for. Throws `ModelError` naming `origin` and the first thing that is wrong.
 */
export function parseManifest(value: unknown, origin: string): Manifest {
  const parsed = schema.safeParse(value)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw new ModelError(`${origin} is malformed at ${issue?.path.join('.') || 'its top'}: ${issue?.message}; get the package again`)
  }
  const manifest = parsed.data as Manifest
  const problem = configProblem(manifest.config) ?? quantProblem(manifest) ?? blobsProblem(manifest)
  if (problem !== undefined) throw new ModelError(`${origin} is inconsistent: ${problem}; get the package again`)
  return manifest
}

function quantProblem({ quant }: Manifest): string | undefined {
  const inBlocks = quant.kind === 'q8' || quant.kind === 'q4'
  if (inBlocks ? !BLOCKS.includes(quant.block) : quant.block !== 0) return `block ${quant.block} does not fit ${quant.kind}`
  if (quant.trunk !== undefined && quant.kind !== 'q4') return `a trunk in ${quant.trunk} does not go with ${quant.kind}`
  return undefined
}

function blobsProblem(manifest: Manifest): string | undefined {
  const { config, quant, blobs } = manifest
  const expert = expertLayout(config, quant)
  if (manifest.expertLayout.stride !== expert.bytes || !sameTensors(manifest.expertLayout.tensors, expert.tensors)) {
    return 'the layout of experts does not follow from the configuration'
  }
  const layers = blobs.filter((entry) => entry.role === 'layer')
  const shards = blobs.filter((entry) => entry.role === 'experts')
  const files = blobs.filter((entry) => entry.role === 'tokenizer')
  if (new Set(files.map(({ name }) => name)).size !== files.length) return 'a tokenizer file is listed twice'
  if (layers.length !== config.layers) return `${layers.length} layer blobs for ${config.layers} layers`
  for (let number = 0; number < config.layers; number++) {
    const problem =
      trunkProblem(
        `layer ${number}`,
        layers.filter((entry) => entry.layer === number),
        layerLayout(config, quant, number),
      ) ??
      shardsProblem(
        number,
        shards.filter((entry) => entry.layer === number),
        isDense(config, number) ? 0 : config.experts,
        expert.bytes,
      )
    if (problem !== undefined) return problem
  }
  if (shards.some((entry) => entry.layer >= config.layers)) return 'a shard belongs to a layer that the model does not have'
  return (
    trunkProblem(
      'embedding',
      blobs.filter((entry) => entry.role === 'embedding'),
      embeddingLayout(config, quant),
    ) ??
    trunkProblem(
      'head',
      blobs.filter((entry) => entry.role === 'head'),
      headLayout(config, quant),
    )
  )
}

type TrunkEntry = Extract<BlobEntry, { tensors: readonly TensorEntry[] }>

function trunkProblem(part: string, entries: readonly TrunkEntry[], layout: Layout): string | undefined {
  const [entry] = entries
  if (entry === undefined || entries.length > 1) return `${entries.length} blobs for the ${part}; expected one`
  if (entry.bytes !== layout.bytes || !sameTensors(entry.tensors, layout.tensors)) {
    return `the tensors of the ${part} do not follow from the configuration`
  }
  return undefined
}

function shardsProblem(layer: number, shards: readonly ShardEntry[], experts: number, stride: number): string | undefined {
  let next = 0
  for (const shard of shards.toSorted((a, b) => a.first - b.first)) {
    if (shard.first !== next || shard.last < shard.first) return `the shards of layer ${layer} overlap or leave out expert ${next}`
    if (shard.bytes !== (shard.last - shard.first + 1) * stride)
      return `shard ${shard.first}-${shard.last} of layer ${layer} has the wrong size`
    next = shard.last + 1
  }
  return next === experts ? undefined : `the shards of layer ${layer} end before expert ${experts - 1}, or beyond it`
}

function sameTensors(a: readonly TensorEntry[], b: readonly TensorEntry[]): boolean {
  return (
    a.length === b.length &&
    a.every((entry, i) => {
      const other = b[i]!
      return (
        entry.name === other.name &&
        entry.type === other.type &&
        entry.offset === other.offset &&
        entry.bytes === other.bytes &&
        entry.shape.length === other.shape.length &&
        entry.shape.every((n, k) => n === other.shape[k])
      )
    })
  )
}
