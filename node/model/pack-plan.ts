import { dirname } from 'node:path'
import { ModelError } from '../errors.ts'
import { COMMON_TENSORS } from './architectures/adapter.ts'
import { blobBytes } from './blob-spec.ts'
import type { BlobSpec } from './blob-spec.ts'
import type { CheckpointTensors } from './checkpoint-tensors.ts'
import type { Checkpoint } from './checkpoint.ts'
import type { PartSpec } from './encode-tensor.ts'
import { blockFor, embeddingLayout, expertLayout, headLayout, layerLayout, shardRanges } from './layout.ts'
import { trunkQuant } from './manifest.ts'
import type { BlobEntry, Quant } from './manifest.ts'
import { isDense } from './model-config.ts'
import type { SourceTensor } from './source-tensor.ts'
import { embeddingWeights, expertWeights, headWeights, layerWeights } from './weight-specs.ts'
import type { WeightSpec } from './weight-specs.ts'

/** One blob of weights to be written, and its entry in the manifest once its hash is known. */
export interface BlobPlan {
  readonly spec: BlobSpec
  readonly entry: (cid: string) => BlobEntry
}

/** All blobs of weights in the manifest's order. Looks up every tensor, so that an incomplete checkpoint is refused before anything is written. */
export function planBlobs(checkpoint: Checkpoint, quant: Quant): BlobPlan[] {
  const { config } = checkpoint
  const plans = [planEmbedding(checkpoint, quant)]
  const ranges = shardRanges(config.experts, expertLayout(config, quant).bytes)
  for (let layer = 0; layer < config.layers; layer++) {
    plans.push(planLayer(checkpoint, quant, layer))
    if (isDense(config, layer)) continue
    for (const { first, last } of ranges) plans.push(planShard(checkpoint, quant, layer, first, last))
  }
  plans.push(planHead(checkpoint, quant))
  refuseUnusedTensors(checkpoint)
  return plans
}

/** Kept by old checkpoints, though it follows from the configuration. */
const REDUNDANT = /\.rotary_emb\.inv_freq$/
/** What switches tensors on that are often there or not. */
const SWITCHES: readonly (readonly [RegExp, string])[] = [
  [/self_attn\..*\.bias$/, 'attention_bias or qkv_bias'],
  [/[qk]_norm\.weight$/, 'use_qk_norm'],
  [/shared_expert/, 'its sizes of shared experts'],
  [/\.mlp\.(gate|up|down)_proj\./, 'its list of dense layers'],
]

/** What only a layer has that predicts a token further ahead; such layers follow the last. */
const AHEAD = 'eh_proj.weight'

/** A tensor of a layer that the configuration knows nothing of would be missing from the result. */
function refuseUnusedTensors({ config, tensors }: Checkpoint): void {
  for (const name of tensors.unused()) {
    const layer = /^model\.layers\.(\d+)\./.exec(name)?.[1]
    if (layer === undefined || REDUNDANT.test(name)) continue
    if (Number(layer) >= config.layers) {
      if (tensors.has(`model.layers.${layer}.${AHEAD}`)) continue
      throw new ModelError(
        `${dirname(tensors.files[0]!)}: tensor ${name} belongs to a layer beyond the ${config.layers} of num_hidden_layers in config.json: they belong to different models, get both again`,
      )
    }
    const cause = SWITCHES.find(([pattern]) => pattern.test(name))?.[1]
    throw new ModelError(
      `${dirname(tensors.files[0]!)}: tensor ${name} is not used by what config.json describes${cause === undefined ? '' : `; look at ${cause}`}: they belong to different models, get both again`,
    )
  }
}

function planEmbedding(checkpoint: Checkpoint, quant: Quant): BlobPlan {
  const layout = embeddingLayout(checkpoint.config, quant)
  const parts = embeddingWeights(checkpoint.config).flatMap((weight) =>
    partsOf(weight, [tensorsFor(checkpoint, weight).get(COMMON_TENSORS.embed, weight.shape)], trunkQuant(quant)),
  )
  return { spec: { layout, items: [parts] }, entry: (cid) => ({ role: 'embedding', cid, ...layout }) }
}

function planHead(checkpoint: Checkpoint, quant: Quant): BlobPlan {
  const { config, tiedEmbeddings } = checkpoint
  const layout = headLayout(config, quant)
  const names: Readonly<Record<string, string>> = {
    final_norm: COMMON_TENSORS.finalNorm,
    lm_head: tiedEmbeddings ? COMMON_TENSORS.embed : COMMON_TENSORS.lmHead,
  }
  const parts = headWeights(config).flatMap((weight) =>
    partsOf(weight, [tensorsFor(checkpoint, weight).get(names[weight.name]!, weight.shape)], trunkQuant(quant)),
  )
  return { spec: { layout, items: [parts] }, entry: (cid) => ({ role: 'head', cid, ...layout }) }
}

function planLayer(checkpoint: Checkpoint, quant: Quant, layer: number): BlobPlan {
  const { adapter, config } = checkpoint
  const layout = layerLayout(config, quant, layer)
  const parts = layerWeights(config, layer).flatMap((weight) =>
    partsOf(weight, adapter.layerWeight({ tensors: tensorsFor(checkpoint, weight), config, layer }, weight), trunkQuant(quant)),
  )
  return { spec: { layout, items: [parts] }, entry: (cid) => ({ role: 'layer', layer, cid, ...layout }) }
}

function planShard(checkpoint: Checkpoint, quant: Quant, layer: number, first: number, last: number): BlobPlan {
  const { adapter, config } = checkpoint
  const items = Array.from({ length: last - first + 1 }, (_, i) =>
    expertWeights(config).flatMap((weight) => {
      const place = { tensors: tensorsFor(checkpoint, weight), config, layer, expert: first + i }
      return partsOf(weight, [adapter.expertWeight(place, weight)], quant)
    }),
  )
  const spec: BlobSpec = { layout: expertLayout(config, quant), items }
  return { spec, entry: (cid) => ({ role: 'experts', layer, first, last, cid, bytes: blobBytes(spec) }) }
}

/** The checkpoint's tensors, whose complaints name the fields of config.json that the weight's shape follows from. */
function tensorsFor({ adapter, tensors }: Checkpoint, { sizes }: WeightSpec): CheckpointTensors {
  const fields = sizes.map((size) => adapter.sizeFields[size])
  return { ...tensors, get: (name, shape) => tensors.get(name, shape, fields) }
}

/** The tensors that a weight is stored as, in the order of its layout; only a table has more than one source. */
function partsOf({ kind }: WeightSpec, sources: readonly SourceTensor[], quant: Quant): PartSpec[] {
  const [source] = sources as readonly [SourceTensor]
  switch (kind) {
    case 'plain':
      return [{ encode: 'rows', type: 'f32', sources: [source] }]
    case 'table':
      return [{ encode: 'rows', type: quant.kind === 'f32' ? 'f32' : 'f16', sources }]
    case 'router':
      return [{ encode: 'transposed', type: 'f32', source }]
    case 'linear': {
      if (quant.kind === 'f32' || quant.kind === 'f16') return [{ encode: 'transposed', type: quant.kind, source }]
      const bits = quant.kind === 'q4' ? 4 : 8
      return [{ encode: 'codes', bits, block: blockFor(quant.block, source.shape[1]!), source }, { encode: 'scales' }]
    }
  }
}
