/**
 * Reads where onnxruntime put the packed forms of weights in a model that it saved with `save_external_prepacked_constant_initializers`:
 * TensorProto.external_data entries `prepacked_<i>` = `<key>|<offset>;<bytes>;<checksum>[|…]`. Field numbers are those of onnx.proto3.
 */

/** One weight in the form that a kernel computes with. `key`: operator and hash of the packed bytes, by which onnxruntime finds it again. */
export interface Pack {
  readonly key: string
  /** Byte ranges of the file of weights. */
  readonly parts: readonly { readonly offset: number; readonly bytes: number }[]
}

const MODEL_GRAPH = 7
const GRAPH_INITIALIZER = 5
const TENSOR_EXTERNAL_DATA = 13
const ENTRY_KEY = 1
const ENTRY_VALUE = 2
const WIRE_VARINT = 0
const WIRE_FIXED64 = 1
const WIRE_BYTES = 2
const WIRE_FIXED32 = 5

/** All packs of a saved model. Throws `Error` when the bytes are no such model. */
export function readPacks(model: Uint8Array): Pack[] {
  const packs: Pack[] = []
  for (const graph of fields(model, MODEL_GRAPH)) {
    for (const tensor of fields(graph, GRAPH_INITIALIZER)) {
      for (const entry of fields(tensor, TENSOR_EXTERNAL_DATA)) {
        if (textOf(entry, ENTRY_KEY).startsWith('prepacked')) packs.push(packOf(textOf(entry, ENTRY_VALUE)))
      }
    }
  }
  return packs
}

function packOf(value: string): Pack {
  const [key, ...ranges] = value.split('|')
  const parts = ranges.map((range) => {
    const [offset, bytes] = range.split(';').map(Number)
    return { offset: offset!, bytes: bytes! }
  })
  if (parts.length === 0 || parts.some(({ offset, bytes }) => !Number.isSafeInteger(offset) || !Number.isSafeInteger(bytes)))
    throw new Error(`"${value}" names no packed weights`)
  return { key: key!, parts }
}

function textOf(message: Uint8Array, field: number): string {
  const [bytes] = fields(message, field)
  return Buffer.from(bytes ?? []).toString('utf8')
}

/** The byte fields of this number in a protobuf message. */
function* fields(message: Uint8Array, wanted: number): Generator<Uint8Array> {
  let at = 0
  const varint = (): number => {
    let value = 0
    for (let factor = 1; ; factor *= 128) {
      const byte = message[at++]
      if (byte === undefined) throw new Error('the model ends within a field')
      value += (byte & 127) * factor
      if (byte < 128) return value
    }
  }
  while (at < message.byteLength) {
    const key = varint()
    const wire = key & 7
    if (wire === WIRE_VARINT) varint()
    else if (wire === WIRE_FIXED64) at += 8
    else if (wire === WIRE_FIXED32) at += 4
    else if (wire === WIRE_BYTES) {
      const bytes = varint()
      if (at + bytes > message.byteLength) throw new Error('the model ends within a field')
      if (key >>> 3 === wanted) yield message.subarray(at, at + bytes)
      at += bytes
    } else throw new Error(`wire type ${wire} is not of a model`)
  }
}
