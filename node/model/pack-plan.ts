import { COMMON_TENSORS } from './architectures/adapter.ts'
import { blobBytes } from './blob-spec.ts'
import type { BlobSpec } from './blob-spec.ts'
import type { Checkpoint } from './checkpoint.ts'
import type { PartSpec } from './encode-tensor.ts'
import { blockFor, embeddingLayout, expertLayout, headLayout, layerLayout, shardRanges } from './layout.ts'
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
  return plans
}

function planEmbedding({ config, tensors }: Checkpoint, quant: Quant): BlobPlan {
  const layout = embeddingLayout(config, quant)
  const parts = embeddingWeights(config).flatMap((weight) => partsOf(weight, [tensors.get(COMMON_TENSORS.embed, weight.shape)], quant))
  return { spec: { layout, items: [parts] }, entry: (cid) => ({ role: 'embedding', cid, ...layout }) }
}

function planHead({ config, tensors, tiedEmbeddings }: Checkpoint, quant: Quant): BlobPlan {
  const layout = headLayout(config, quant)
  const names: Readonly<Record<string, string>> = {
    final_norm: COMMON_TENSORS.finalNorm,
    lm_head: tiedEmbeddings ? COMMON_TENSORS.embed : COMMON_TENSORS.lmHead,
  }
  const parts = headWeights(config).flatMap((weight) => partsOf(weight, [tensors.get(names[weight.name]!, weight.shape)], quant))
  return { spec: { layout, items: [parts] }, entry: (cid) => ({ role: 'head', cid, ...layout }) }
}

function planLayer({ adapter, config, tensors }: Checkpoint, quant: Quant, layer: number): BlobPlan {
  const layout = layerLayout(config, quant, layer)
  const place = { tensors, config, layer }
  const parts = layerWeights(config, layer).flatMap((weight) => partsOf(weight, adapter.layerWeight(place, weight), quant))
  return { spec: { layout, items: [parts] }, entry: (cid) => ({ role: 'layer', layer, cid, ...layout }) }
}

function planShard({ adapter, config, tensors }: Checkpoint, quant: Quant, layer: number, first: number, last: number): BlobPlan {
  const items = Array.from({ length: last - first + 1 }, (_, i) => {
    const place = { tensors, config, layer, expert: first + i }
    return expertWeights(config).flatMap((weight) => partsOf(weight, [adapter.expertWeight(place, weight)], quant))
  })
  const spec: BlobSpec = { layout: expertLayout(config, quant), items }
  return { spec, entry: (cid) => ({ role: 'experts', layer, first, last, cid, bytes: blobBytes(spec) }) }
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
