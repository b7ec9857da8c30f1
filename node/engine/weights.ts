import { ModelError } from '../errors.ts'
import { blockFor } from '../model/layout.ts'
import type { Quant, TensorEntry, TensorType } from '../model/manifest.ts'
import type { OnnxGraph } from './onnx-graph.ts'
import type { ScratchTensors } from './scratch-tensors.ts'

/**
 * accuracy_level of MatMulNBits: 4 computes with int8 activations (VNNI and the like), the only fast kernel
 * on x86 and arm for both 4 and 8 bits; level 0 is exact but many times slower.
 */
export const QUANTIZED_ACCURACY_LEVEL = 4

const TYPE_BYTES: Readonly<Record<TensorType, number>> = Object.freeze({ f32: 4, f16: 2, u8: 1 })
/** TensorProto.DataType FLOAT, the `to` of Cast. */
const TO_FLOAT = 1

/** The tensors of one blob (or of one expert inside a shard), checked against the shapes a graph expects before it names them. */
export class BlobWeights {
  readonly #cid: string
  readonly #fileName: string
  readonly #quant: Quant
  readonly #start: number
  readonly #scratch: ScratchTensors | null
  readonly #bytes: number
  readonly #tensors: ReadonlyMap<string, TensorEntry>

  /** `start`: byte within the blob from which the entries' offsets count. `fileName`: the blob's file within the session's folder. */
  constructor(init: {
    cid: string
    fileName: string
    bytes: number
    quant: Quant
    tensors: readonly TensorEntry[]
    start: number
    scratch: ScratchTensors | null
  }) {
    this.#cid = init.cid
    this.#fileName = init.fileName
    this.#quant = init.quant
    this.#start = init.start
    this.#scratch = init.scratch
    this.#bytes = init.bytes
    this.#tensors = new Map(init.tensors.map((tensor) => [tensor.name, tensor]))
  }

  /** The entry of a tensor; throws `ModelError` when it is missing, mis-shaped or outside its blob. */
  entry(name: string, types: readonly TensorType[], shape: readonly number[]): TensorEntry {
    const tensor = this.#tensors.get(name)
    if (tensor === undefined) throw this.#error(`tensor "${name}" is missing`)
    if (!types.includes(tensor.type)) throw this.#error(`tensor "${name}" is ${tensor.type}, expected ${types.join(' or ')}`)
    if (tensor.shape.length !== shape.length || tensor.shape.some((d, i) => d !== shape[i])) {
      throw this.#error(`tensor "${name}" has shape [${tensor.shape.join(', ')}], expected [${shape.join(', ')}]`)
    }
    const bytes = shape.reduce((product, d) => product * d, TYPE_BYTES[tensor.type])
    if (tensor.bytes !== bytes) throw this.#error(`tensor "${name}" has ${tensor.bytes} bytes, its shape needs ${bytes}`)
    if (this.#start + tensor.offset + bytes > this.#bytes) throw this.#error(`tensor "${name}" ends beyond the blob's ${this.#bytes} bytes`)
    return tensor
  }

  /** Adds a float32 vector or matrix to the graph under its own name. */
  addPlain(graph: OnnxGraph, name: string, shape: readonly number[]): void {
    this.#add(graph, this.entry(name, ['f32'], shape))
  }

  /** Adds a weight of any shape to the graph under its own name, as float32 however it is stored. */
  addTable(graph: OnnxGraph, name: string, shape: readonly number[]): void {
    const tensor = this.entry(name, ['f32', 'f16'], shape)
    if (tensor.type === 'f32') {
      this.#add(graph, tensor)
      return
    }
    this.#add(graph, tensor, `${name}_f16`)
    graph.node('Cast', [`${name}_f16`], [name], { to: TO_FLOAT })
  }

  /** Like `addLinear`, plus the bias `<name>_bias` [outputs]. */
  addBiasedLinear(graph: OnnxGraph, name: string, input: string, output: string, inputs: number, outputs: number): void {
    this.addLinear(graph, name, input, `${output}_unbiased`, inputs, outputs)
    this.addPlain(graph, `${name}_bias`, [outputs])
    graph.node('Add', [`${output}_unbiased`, `${name}_bias`], [output])
  }

  /** Adds `output = input · W` for the linear weight `name` of `inputs` × `outputs`, however it is stored. */
  addLinear(graph: OnnxGraph, name: string, input: string, output: string, inputs: number, outputs: number): void {
    const { kind } = this.#quant
    if (kind === 'f32' || kind === 'f16') {
      this.#add(graph, this.entry(name, [kind], [inputs, outputs]))
      if (kind === 'f32') {
        graph.node('MatMul', [input, name], [output])
      } else {
        // Folded when the session is created: the CPU provider has no f16 MatMul, so compute is f32 either way.
        graph.node('Cast', [name], [`${name}_f32`], { to: TO_FLOAT })
        graph.node('MatMul', [input, `${name}_f32`], [output])
      }
      return
    }
    const bits = kind === 'q4' ? 4 : 8
    const block = blockFor(this.#quant.block, inputs)
    const blocks = Math.ceil(inputs / block)
    const codes = this.entry(`${name}.codes`, ['u8'], [outputs, blocks, (block * bits) / 8])
    const scales = this.entry(`${name}.scales`, ['f32'], [outputs, blocks])
    this.#add(graph, codes)
    this.#add(graph, scales)
    graph.microsoft('MatMulNBits', [input, codes.name, scales.name], [output], {
      K: inputs,
      N: outputs,
      bits,
      block_size: block,
      accuracy_level: QUANTIZED_ACCURACY_LEVEL,
    })
  }

  #add(graph: OnnxGraph, tensor: TensorEntry, name = tensor.name): void {
    const offset = this.#start + tensor.offset
    const moved = this.#scratch?.placeOf(offset)
    const place = moved === undefined ? { location: this.#fileName, offset } : { location: this.#scratch!.location, offset: moved }
    graph.weight(name, tensor.type, tensor.shape, { ...place, bytes: tensor.bytes })
  }

  #error(problem: string): ModelError {
    return new ModelError(`blob ${this.#cid}: ${problem}; pack the model again`)
  }
}
