import { ByteWriter } from '../../protocols/ledger/bytes.ts'
import { InvalidMessageError } from '../../protocols/wire/errors.ts'
import { trimBitmap } from '../bitmap.ts'
import { LIMITS } from '../schema.ts'
import type { Holdings } from '../schema.ts'
import { bounded, readModels } from './codec.ts'
import type { TopicCodec } from './codec.ts'

export const holdings: TopicCodec<Holdings> = {
  encode(value) {
    const models = [...value].map(([model, layers]) => ({ model, layers: trimLayers(layers) })).filter(({ layers }) => layers.length > 0)
    const writer = new ByteWriter().varint(models.length)
    for (const { model, layers } of models.sort((a, b) => (a.model < b.model ? -1 : 1))) {
      writer.text(model).varint(layers.length)
      for (const bitmap of layers) writer.varint(bitmap.length).raw(bitmap)
    }
    return writer.finish()
  },
  decode(reader) {
    let total = 0
    return readModels(reader, () => {
      const count = bounded(reader.varint(), 1, LIMITS.maxLayers, 'layers')
      total = bounded(total + count, 1, LIMITS.maxHoldingLayers, 'layers of all models')
      const layers: Uint8Array[] = []
      for (let layer = 0; layer < count; layer++) {
        const bitmap = reader.raw(bounded(reader.varint(), 0, LIMITS.maxExperts / 8, 'bytes of a bitmap')).slice()
        if (bitmap.at(-1) === 0) throw new InvalidMessageError('a bitmap ends in a zero byte')
        layers.push(bitmap)
      }
      if (layers.at(-1)!.length === 0) throw new InvalidMessageError('the last layer is empty')
      return layers
    })
  },
}

function trimLayers(layers: readonly Uint8Array[]): Uint8Array[] {
  // Not `map`: a hole in the array means a layer without experts.
  const trimmed = Array.from(layers, (bitmap: Uint8Array | undefined) => trimBitmap(bitmap ?? new Uint8Array()))
  while (trimmed.length > 0 && trimmed.at(-1)!.length === 0) trimmed.pop()
  return trimmed
}
