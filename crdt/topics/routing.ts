import { ByteWriter } from '../../protocols/ledger/bytes.ts'
import type { ByteReader } from '../../protocols/ledger/bytes.ts'
import { InvalidMessageError, LimitExceededError } from '../../protocols/wire/errors.ts'
import { LIMITS } from '../schema.ts'
import type { Heat, ModelRouting, Routing, RoutingCounts } from '../schema.ts'
import { bounded, readModels } from './codec.ts'
import type { TopicCodec } from './codec.ts'

/** `[counts of all models][heat of some]`: the second part came later, and readers of the first pass over it. */
export const routing: TopicCodec<Routing> = {
  encode(value) {
    const models = [...value].sort(([a], [b]) => (a < b ? -1 : 1))
    const writer = new ByteWriter().varint(models.length)
    for (const [model, { layers, experts, counts }] of models) {
      if (counts.length !== layers * experts) {
        throw new InvalidMessageError(`routing of ${model}: ${counts.length} counts for ${layers} layers of ${experts} experts`)
      }
      writer.text(model).varint(layers).varint(experts)
      for (let i = 0; i < counts.length; i++) writer.varint(counts[i]!)
    }
    const hot = models.flatMap(([model, { layers, experts, heat }]) =>
      heat === undefined ? [] : [{ model, cells: layers * experts, heat }],
    )
    if (hot.length === 0) return writer.finish()
    writer.varint(hot.length)
    for (const { model, cells, heat } of hot) {
      if (heat.codes.length !== cells) throw new InvalidMessageError(`heat of ${model}: ${heat.codes.length} codes for ${cells} experts`)
      writeHeat(writer.text(model), heat)
    }
    return writer.finish()
  },
  decode(reader) {
    let cells = 0
    const counts = readModels(reader, (): RoutingCounts => {
      const layers = bounded(reader.varint(), 1, LIMITS.maxLayers, 'layers')
      const experts = bounded(reader.varint(), 1, LIMITS.maxExperts, 'experts')
      cells += layers * experts
      if (cells > LIMITS.maxRoutingCells) throw new LimitExceededError(`routing of more than ${LIMITS.maxRoutingCells} experts`)
      // Every count has at least one byte: what is not there need not be allocated.
      if (layers * experts > reader.left) throw new InvalidMessageError(`${reader.left} bytes can not hold ${layers * experts} counts`)
      return { layers, experts, counts: readCounts(reader, layers * experts) }
    })
    if (reader.left === 0) return counts
    const models = new Map<string, ModelRouting>(counts)
    let pairs = 0
    readModels(reader, (model) => {
      const counted = counts.get(model)
      if (counted === undefined) throw new InvalidMessageError('heat of a model without counts')
      const heat = readHeat(reader, counted, LIMITS.maxPairs - pairs)
      pairs += heat.pairs.codes.length
      models.set(model, { ...counted, heat })
    })
    return models
  },
}

function readCounts(reader: ByteReader, cells: number): ArrayLike<number> {
  const counts = new Float64Array(cells)
  let largest = 0
  for (let i = 0; i < cells; i++) {
    counts[i] = reader.varint()
    if (counts[i]! > largest) largest = counts[i]!
  }
  // Half the memory for every author whose counts allow it.
  return largest < 2 ** 32 ? Uint32Array.from(counts) : counts
}

function writeHeat(writer: ByteWriter, { asOfMs, halfLifeMs, peak, codes, pairs }: Heat): void {
  writer.varint(asOfMs).varint(halfLifeMs).u32(floatBits(peak)).raw(codes).varint(pairs.codes.length)
  let last = -1
  pairs.codes.forEach((code, i) => {
    writer.varint(pairs.keys[i]! - last - 1).u8(code)
    last = pairs.keys[i]!
  })
}

function readHeat(reader: ByteReader, { layers, experts }: RoutingCounts, maxPairs: number): Heat {
  const asOfMs = reader.varint()
  const halfLifeMs = bounded(reader.varint(), LIMITS.minHalfLifeMs, LIMITS.maxHalfLifeMs, 'ms of half-life')
  const peak = floatOf(reader.u32())
  if (!(peak >= 0 && peak <= LIMITS.maxRate)) throw new InvalidMessageError(`a peak of ${peak} tokens per second`)
  const codes = reader.raw(layers * experts).slice()
  const count = bounded(reader.varint(), 0, maxPairs, 'pairs')
  const keys = new Float64Array(count)
  const pairCodes = new Uint8Array(count)
  let last = -1
  for (let i = 0; i < count; i++) {
    last += reader.varint() + 1
    const inLayer = last % (experts * experts)
    if (last >= layers * experts * experts) throw new InvalidMessageError('a pair beyond the last layer')
    if (Math.floor(inLayer / experts) >= inLayer % experts) throw new InvalidMessageError('a pair whose first expert is not the lesser one')
    keys[i] = last
    pairCodes[i] = reader.u8()
  }
  return { asOfMs, halfLifeMs, peak, codes, pairs: { keys, codes: pairCodes } }
}

function floatBits(value: number): number {
  return new Uint32Array(Float32Array.of(value).buffer)[0]!
}

function floatOf(bits: number): number {
  return new Float32Array(Uint32Array.of(bits).buffer)[0]!
}
