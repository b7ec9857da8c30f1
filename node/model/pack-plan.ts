import { COMMON_TENSORS, layerTensorName } from './architectures/adapter.ts'
import { blobBytes } from './blob-spec.ts'
import type { BlobSpec } from './blob-spec.ts'
import type { Checkpoint } from './checkpoint.ts'
import type { PartSpec } from './encode-tensor.ts'
import { blockFor, embeddingLayout, expertLayout, headLayout, layerLayout, shardRanges } from './layout.ts'
import type { BlobEntry, Quant } from './manifest.ts'
import type { SourceTensor } from './source-tensor.ts'

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
    for (const { first, last } of ranges) plans.push(planShard(checkpoint, quant, layer, first, last))
  }
  plans.push(planHead(checkpoint, quant))
  return plans
}

function planEmbedding({ config, tensors }: Checkpoint, quant: Quant): BlobPlan {
  const layout = embeddingLayout(config, quant)
  const source = tensors.get(COMMON_TENSORS.embed, [config.vocabSize, config.hiddenSize])
  const spec: BlobSpec = { layout, items: [[{ encode: 'rows', type: quant.kind === 'f32' ? 'f32' : 'f16', source }]] }
  return { spec, entry: (cid) => ({ role: 'embedding', cid, ...layout }) }
}

function planHead({ config, tensors, tiedEmbeddings }: Checkpoint, quant: Quant): BlobPlan {
  const layout = headLayout(config, quant)
  const norm = tensors.get(COMMON_TENSORS.finalNorm, [config.hiddenSize])
  const weight = tensors.get(tiedEmbeddings ? COMMON_TENSORS.embed : COMMON_TENSORS.lmHead, [config.vocabSize, config.hiddenSize])
  const spec: BlobSpec = { layout, items: [[{ encode: 'rows', type: 'f32', source: norm }, ...linearParts(weight, quant)]] }
  return { spec, entry: (cid) => ({ role: 'head', cid, ...layout }) }
}

function planLayer({ adapter, config, tensors }: Checkpoint, quant: Quant, layer: number): BlobPlan {
  const layout = layerLayout(config, quant)
  const { hiddenSize } = config
  const queries = config.heads * config.headDim
  const keys = config.kvHeads * config.headDim
  const linear = (name: string, outputs: number, inputs: number): PartSpec[] =>
    linearParts(tensors.get(layerTensorName(layer, name), [outputs, inputs]), quant)
  const norm = (name: string): PartSpec[] => {
    const shape = layout.tensors.find((tensor) => tensor.name === name)?.shape
    if (shape === undefined) return []
    return [{ encode: 'rows', type: 'f32', source: tensors.get(layerTensorName(layer, name), shape) }]
  }
  const router = tensors.get(adapter.router(layer), [config.experts, hiddenSize])
  const parts: PartSpec[] = [
    ...norm('attn_norm'),
    ...linear('q', queries, hiddenSize),
    ...linear('k', keys, hiddenSize),
    ...linear('v', keys, hiddenSize),
    ...linear('o', hiddenSize, queries),
    ...norm('q_norm'),
    ...norm('k_norm'),
    ...norm('ffn_norm'),
    { encode: 'transposed', type: 'f32', source: router },
  ]
  return { spec: { layout, items: [parts] }, entry: (cid) => ({ role: 'layer', layer, cid, ...layout }) }
}

function planShard(checkpoint: Checkpoint, quant: Quant, layer: number, first: number, last: number): BlobPlan {
  const { adapter, config, tensors } = checkpoint
  const { hiddenSize, expertSize } = config
  const items = Array.from({ length: last - first + 1 }, (_, i) => {
    const names = adapter.expert(layer, first + i)
    return [
      ...linearParts(tensors.get(names.gate, [expertSize, hiddenSize]), quant),
      ...linearParts(tensors.get(names.up, [expertSize, hiddenSize]), quant),
      ...linearParts(tensors.get(names.down, [hiddenSize, expertSize]), quant),
    ]
  })
  const spec: BlobSpec = { layout: expertLayout(config, quant), items }
  return { spec, entry: (cid) => ({ role: 'experts', layer, first, last, cid, bytes: blobBytes(spec) }) }
}

/** The tensors that a linear weight [outputs, inputs] is stored as, in the order of its layout. */
function linearParts(source: SourceTensor, quant: Quant): PartSpec[] {
  if (quant.kind === 'f32' || quant.kind === 'f16') return [{ encode: 'transposed', type: quant.kind, source }]
  const bits = quant.kind === 'q4' ? 4 : 8
  return [{ encode: 'codes', bits, block: blockFor(quant.block, source.shape[1]!), source }, { encode: 'scales' }]
}
