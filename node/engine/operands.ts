import { Buffer } from 'node:buffer'
import { Tensor } from 'onnxruntime-node'
import { ONNX_TYPE } from './onnx-graph.ts'
import type { OrtApi, Pointer } from './ort-api.ts'

export type Numbers = Float32Array | Int32Array | Int16Array | Int8Array

/** Of OrtMemType and OrtAllocatorType: memory that is nobody's arena. */
const DEFAULT_MEMORY = 0
const DEVICE_ALLOCATOR = 0

/** An array of a shape, which sessions read or write where it lies. */
export class Operand {
  readonly numbers: Numbers
  readonly shape: readonly number[]
  #tensor: Tensor | null = null
  #native: { readonly api: OrtApi; readonly value: Pointer } | null = null

  constructor(numbers: Numbers, shape: readonly number[]) {
    this.numbers = numbers
    this.shape = shape
  }

  /** What onnxruntime's package takes. */
  get tensor(): Tensor {
    return (this.#tensor ??= tensorOf(this.numbers, this.shape))
  }

  /** What onnxruntime's C API takes, an OrtValue, until {@link free}. */
  nativeOf(api: OrtApi): Pointer {
    if (this.#native === null) {
      const { numbers, shape } = this
      const data = api.addressOf(numbers)
      const info = memoryInfoOf(api)
      const value = api.made(api.createTensorWithDataAsOrtValue, info, data, numbers.byteLength, shape, shape.length, typeOf(numbers))
      this.#native = { api, value }
    }
    return this.#native.value
  }

  /** Frees what the C API made of it, not the array. */
  free(): void {
    this.#native?.api.releaseValue(this.#native.value)
    this.#native = null
  }
}

/** The inputs or the outputs of a run, by the names that the graph gives them. The operands must not be freed before the last run. */
export class Operands {
  readonly #byName: Readonly<Record<string, Operand>>
  #tensors: Readonly<Record<string, Tensor>> | null = null
  #native: NativeOperands | null = null

  constructor(byName: Readonly<Record<string, Operand>>) {
    this.#byName = byName
  }

  get tensors(): Readonly<Record<string, Tensor>> {
    return (this.#tensors ??= Object.fromEntries(Object.entries(this.#byName).map(([name, { tensor }]) => [name, tensor])))
  }

  nativeOf(api: OrtApi): NativeOperands {
    if (this.#native === null) {
      const names = Object.keys(this.#byName)
      this.#native = {
        names: BigUint64Array.from(names, (name) => nameAddress(api, name)),
        values: BigUint64Array.from(names, (name) => this.#byName[name]!.nativeOf(api)),
      }
    }
    return this.#native
  }
}

/** Arrays of pointers, as the C API takes them. */
interface NativeOperands {
  readonly names: BigUint64Array
  readonly values: BigUint64Array
}

/** Names as C strings, kept as long as the thread: graphs have few different ones. */
const cNames = new Map<string, { readonly bytes: Buffer; readonly address: Pointer }>()
let memoryInfo: Pointer | null = null

function nameAddress(api: OrtApi, name: string): Pointer {
  let known = cNames.get(name)
  if (known === undefined) {
    const bytes = Buffer.from(`${name}\0`)
    cNames.set(name, (known = { bytes, address: api.addressOf(bytes) }))
  }
  return known.address
}

function memoryInfoOf(api: OrtApi): Pointer {
  return (memoryInfo ??= api.made(api.createCpuMemoryInfo, DEVICE_ALLOCATOR, DEFAULT_MEMORY))
}

function typeOf(numbers: Numbers): number {
  if (numbers instanceof Float32Array) return ONNX_TYPE.f32
  if (numbers instanceof Int32Array) return ONNX_TYPE.i32
  return numbers instanceof Int16Array ? ONNX_TYPE.i16 : ONNX_TYPE.i8
}

function tensorOf(numbers: Numbers, shape: readonly number[]): Tensor {
  if (numbers instanceof Float32Array) return new Tensor('float32', numbers, shape)
  if (numbers instanceof Int32Array) return new Tensor('int32', numbers, shape)
  return numbers instanceof Int16Array ? new Tensor('int16', numbers, shape) : new Tensor('int8', numbers, shape)
}
