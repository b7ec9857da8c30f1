import { Buffer } from 'node:buffer'
import type { Pack } from './saved-packs.ts'

/**
 * Writes an ONNX model as protobuf bytes: only the messages the engine's graphs need.
 * Field numbers are those of onnx.proto3 (ModelProto, GraphProto, NodeProto, TensorProto, ValueInfoProto).
 */

/** TensorProto.DataType */
export const ONNX_TYPE = Object.freeze({ f32: 1, u8: 2, i8: 3, i16: 5, i32: 6, i64: 7, f16: 10 })
export type OnnxType = keyof typeof ONNX_TYPE

/** AttributeProto.AttributeType */
const ATTRIBUTE_FLOAT = 1
const ATTRIBUTE_INT = 2
const ATTRIBUTE_INTS = 7
const IR_VERSION = 10
const OPSET = 21
const MICROSOFT_OPSET = 1
const WIRE_VARINT = 0
const WIRE_BYTES = 2
const WIRE_FIXED32 = 5
/** TensorProto.DataLocation */
const LOCATION_EXTERNAL = 1

/** A number or a symbolic dimension's name. */
export type Dimension = number | string
/** Integers are plain numbers, and lists of them; floats are marked. */
export type Attribute = number | readonly number[] | { readonly float: number }
export type Attributes = Readonly<Record<string, Attribute>>

/** Where a weight lies: a byte range of a file beside the model. */
export interface ExternalData {
  /** File name within the session's folder of external initializers. */
  readonly location: string
  readonly offset: number
  readonly bytes: number
}

function varint(value: number): Buffer {
  const bytes: number[] = []
  let rest = BigInt.asUintN(64, BigInt(value))
  do {
    const low = Number(rest & 127n)
    rest >>= 7n
    bytes.push(rest > 0n ? low | 128 : low)
  } while (rest > 0n)
  return Buffer.from(bytes)
}

const key = (field: number, wire: number): Buffer => varint((field << 3) | wire)
const intField = (field: number, value: number): Buffer => Buffer.concat([key(field, WIRE_VARINT), varint(value)])
const bytesField = (field: number, value: Uint8Array): Buffer => Buffer.concat([key(field, WIRE_BYTES), varint(value.byteLength), value])
const textField = (field: number, value: string): Buffer => bytesField(field, Buffer.from(value))

function floatField(field: number, value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return Buffer.concat([key(field, WIRE_FIXED32), bytes])
}

function attributeProto(name: string, value: Attribute): Buffer {
  const named = textField(1, name)
  if (typeof value === 'number') return Buffer.concat([named, intField(3, value), intField(20, ATTRIBUTE_INT)])
  if ('float' in value) return Buffer.concat([named, floatField(2, value.float), intField(20, ATTRIBUTE_FLOAT)])
  return Buffer.concat([named, ...value.map((item) => intField(8, item)), intField(20, ATTRIBUTE_INTS)])
}

function valueInfoProto(name: string, type: OnnxType, shape: readonly Dimension[]): Buffer {
  const dimensions = shape.map((d) => bytesField(1, typeof d === 'number' ? intField(1, d) : textField(2, d)))
  const tensorType = Buffer.concat([intField(1, ONNX_TYPE[type]), bytesField(2, Buffer.concat(dimensions))])
  return Buffer.concat([textField(1, name), bytesField(2, bytesField(1, tensorType))])
}

function tensorHead(name: string, type: OnnxType, shape: readonly number[]): Buffer {
  return Buffer.concat([...shape.map((d) => intField(1, d)), intField(2, ONNX_TYPE[type]), textField(8, name)])
}

function externalEntry(name: string, value: string): Buffer {
  return bytesField(13, Buffer.concat([textField(1, name), textField(2, value)]))
}

/**
 * Adds to a model the packed weights that lie in a prepared file, for onnxruntime to find when it opens the session. They are entries of an
 * initializer that nothing reads; as an output of the graph it is not optimised away.
 */
export function addPacks(model: Uint8Array, location: string, packs: readonly Pack[]): Uint8Array {
  const entries = packs.map(({ key, parts }, i) => {
    return externalEntry(`prepacked_${i}`, [key, ...parts.map(({ offset, bytes }) => `${offset};${bytes};0`)].join('|'))
  })
  const place = [externalEntry('location', location), externalEntry('offset', '0'), externalEntry('length', '4')]
  const carrier = Buffer.concat([tensorHead('packs', 'f32', [1]), ...place, ...entries, intField(14, LOCATION_EXTERNAL)])
  // A message that occurs twice is merged, so what is appended becomes part of the graph.
  const graph = Buffer.concat([bytesField(5, carrier), bytesField(12, valueInfoProto('packs', 'f32', [1]))])
  return new Uint8Array(Buffer.concat([model, bytesField(7, graph)]))
}

/** A graph under construction; names are unique within it, nodes are in execution order. */
export class OnnxGraph {
  readonly #name: string
  readonly #nodes: Buffer[] = []
  readonly #initializers: Buffer[] = []
  readonly #inputs: Buffer[] = []
  readonly #outputs: Buffer[] = []

  constructor(name: string) {
    this.#name = name
  }

  input(name: string, type: OnnxType, shape: readonly Dimension[]): void {
    this.#inputs.push(valueInfoProto(name, type, shape))
  }

  output(name: string, type: OnnxType, shape: readonly Dimension[]): void {
    this.#outputs.push(valueInfoProto(name, type, shape))
  }

  /** A small constant kept inside the model; shape [] is a scalar. */
  constant(name: string, shape: readonly number[], values: BigInt64Array | Float32Array): void {
    const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
    const type = values instanceof Float32Array ? 'f32' : 'i64'
    this.#initializers.push(Buffer.concat([tensorHead(name, type, shape), bytesField(9, bytes)]))
  }

  /** A weight that stays in its file; onnxruntime maps it when the offset is a multiple of the page size. */
  weight(name: string, type: OnnxType, shape: readonly number[], data: ExternalData): void {
    this.#initializers.push(
      Buffer.concat([
        tensorHead(name, type, shape),
        externalEntry('location', data.location),
        externalEntry('offset', String(data.offset)),
        externalEntry('length', String(data.bytes)),
        intField(14, LOCATION_EXTERNAL),
      ]),
    )
  }

  /** A standard operator. An empty name leaves out an optional input or output. */
  node(operator: string, inputs: readonly string[], outputs: readonly string[], attributes: Attributes = {}): void {
    this.#add(operator, '', inputs, outputs, attributes)
  }

  /** An operator of the domain com.microsoft. */
  microsoft(operator: string, inputs: readonly string[], outputs: readonly string[], attributes: Attributes = {}): void {
    this.#add(operator, 'com.microsoft', inputs, outputs, attributes)
  }

  /** Gives `input` another shape; -1 stands for what is left. */
  reshape(input: string, output: string, shape: readonly number[]): void {
    this.constant(`${output}_shape`, [shape.length], BigInt64Array.from(shape, BigInt))
    this.node('Reshape', [input, `${output}_shape`], [output])
  }

  /** Numbers `from` to `to` (exclusive) along one axis. */
  slice(input: string, output: string, range: { readonly axis: number; readonly from: number; readonly to: number }): void {
    const parts = [`${output}_from`, `${output}_to`, `${output}_axis`]
    for (const [i, value] of [range.from, range.to, range.axis].entries()) this.constant(parts[i]!, [1], BigInt64Array.of(BigInt(value)))
    this.node('Slice', [input, ...parts], [output])
  }

  #add(operator: string, domain: string, inputs: readonly string[], outputs: readonly string[], attributes: Attributes): void {
    this.#nodes.push(
      Buffer.concat([
        ...inputs.map((name) => textField(1, name)),
        ...outputs.map((name) => textField(2, name)),
        textField(3, `${operator}_${this.#nodes.length}`),
        textField(4, operator),
        ...Object.entries(attributes).map(([name, value]) => bytesField(5, attributeProto(name, value))),
        textField(7, domain),
      ]),
    )
  }

  /** The whole model (ModelProto). */
  toBytes(): Uint8Array {
    const graph = Buffer.concat([
      ...this.#nodes.map((b) => bytesField(1, b)),
      textField(2, this.#name),
      ...this.#initializers.map((b) => bytesField(5, b)),
      ...this.#inputs.map((b) => bytesField(11, b)),
      ...this.#outputs.map((b) => bytesField(12, b)),
    ])
    const opset = (domain: string, version: number) => bytesField(8, Buffer.concat([textField(1, domain), intField(2, version)]))
    // Own memory: a pooled Buffer would drag its whole pool along when it is posted to a worker.
    return new Uint8Array(
      Buffer.concat([
        intField(1, IR_VERSION),
        textField(2, 'skein'),
        bytesField(7, graph),
        opset('', OPSET),
        opset('com.microsoft', MICROSOFT_OPSET),
      ]),
    )
  }
}
