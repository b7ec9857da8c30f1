import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { setImmediate as turn } from 'node:timers/promises'
import { blockFor } from '../model/layout.ts'
import type { Manifest, TensorEntry } from '../model/manifest.ts'
import type { Activation } from '../model/model-config.ts'

/** Multiplications between two turns of the event loop: about a millisecond, so that calls are not held up. */
const PRODUCTS_PER_TURN = 500_000

/** One expert within a blob's file. */
export interface ReferenceExpertInit {
  readonly manifest: Pick<Manifest, 'config' | 'quant' | 'expertLayout'>
  /** File of the shard, its hash checked. */
  readonly path: string
  /** Byte at which the expert begins. */
  readonly start: number
  /** [hidden] */
  readonly x: Float32Array
}

/**
 * What an expert gives for one row, [hidden]: computed from its stored weights in float64 by plain loops that share no code with
 * onnxruntime. Slow, and meant to be: it tells whether the engine computes on this machine what the package means.
 */
export async function referenceExpert(init: ReferenceExpertInit): Promise<Float64Array> {
  const { hiddenSize, expertSize, expertActivation } = init.manifest.config
  const file = await open(init.path, 'r')
  try {
    const linear = (name: string, from: Float64Array, outputs: number): Promise<Float64Array> => multiply(init, file, name, from, outputs)
    const gate = await linear('gate', Float64Array.from(init.x), expertSize)
    const up = await linear('up', Float64Array.from(init.x), expertSize)
    return await linear('down', activated(expertActivation, gate, up), hiddenSize)
  } finally {
    await file.close()
  }
}

function activated(activation: Activation, gate: Float64Array, up: Float64Array): Float64Array {
  if (activation.kind === 'swiglu') return gate.map((value, i) => (value / (1 + Math.exp(-value))) * up[i]!)
  const { alpha, limit } = activation
  return gate.map((value, i) => {
    const clamped = Math.min(value, limit)
    return (clamped / (1 + Math.exp(-alpha * clamped))) * (Math.max(-limit, Math.min(up[i]!, limit)) + 1)
  })
}

/** `x` times the linear weight `name`, and its bias where it has one. */
async function multiply(
  { manifest, start }: ReferenceExpertInit,
  file: FileHandle,
  name: string,
  x: Float64Array,
  outputs: number,
): Promise<Float64Array> {
  const { quant, expertLayout } = manifest
  const find = (tensor: string): TensorEntry | undefined => expertLayout.tensors.find((entry) => entry.name === tensor)
  const read = async (entry: TensorEntry): Promise<Buffer> => {
    const bytes = Buffer.alloc(entry.bytes)
    await file.read(bytes, 0, entry.bytes, start + entry.offset)
    return bytes
  }
  const plain = find(name)
  const y =
    plain === undefined
      ? await multiplyBlocks(
          x,
          await read(find(`${name}.codes`)!),
          floatsOf(await read(find(`${name}.scales`)!), 'f32'),
          quant.kind === 'q4' ? 4 : 8,
          blockFor(quant.block, x.length),
          outputs,
        )
      : await multiplyPlain(x, floatsOf(await read(plain), plain.type), outputs)
  const bias = find(`${name}_bias`)
  if (bias === undefined) return y
  const values = floatsOf(await read(bias), bias.type)
  return y.map((value, i) => value + values[i]!)
}

/** `w` is [inputs, outputs]. */
async function multiplyPlain(x: Float64Array, w: ArrayLike<number>, outputs: number): Promise<Float64Array> {
  const y = new Float64Array(outputs)
  for (let i = 0, done = 0; i < x.length; i++, done += outputs) {
    for (let o = 0; o < outputs; o++) y[o]! += x[i]! * w[i * outputs + o]!
    if (done > PRODUCTS_PER_TURN) {
      done = 0
      await turn()
    }
  }
  return y
}

/** `codes` [outputs, blocks, block * bits / 8], `scales` [outputs, blocks]; codes have their zero in the middle. */
async function multiplyBlocks(
  x: Float64Array,
  codes: Uint8Array,
  scales: ArrayLike<number>,
  bits: 4 | 8,
  block: number,
  outputs: number,
): Promise<Float64Array> {
  const y = new Float64Array(outputs)
  const blocks = Math.ceil(x.length / block)
  const blockBytes = (block * bits) / 8
  for (let o = 0, done = 0; o < outputs; o++, done += x.length) {
    for (let b = 0; b < blocks; b++) {
      let sum = 0
      const from = (o * blocks + b) * blockBytes
      for (let i = 0; i < block && b * block + i < x.length; i++) {
        const code = bits === 8 ? codes[from + i]! - 128 : ((codes[from + (i >> 1)]! >> ((i & 1) * 4)) & 15) - 8
        sum += code * x[b * block + i]!
      }
      y[o]! += sum * scales[o * blocks + b]!
    }
    if (done > PRODUCTS_PER_TURN) {
      done = 0
      await turn()
    }
  }
  return y
}

function floatsOf(bytes: Buffer, type: TensorEntry['type']): ArrayLike<number> {
  const memory = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length)
  return type === 'f16' ? new Float16Array(memory) : new Float32Array(memory)
}
