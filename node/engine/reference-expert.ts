import { open } from 'node:fs/promises'
import { setImmediate as turn } from 'node:timers/promises'
import { blockFor } from '../model/layout.ts'
import type { Manifest, TensorEntry } from '../model/manifest.ts'
import type { Activation } from '../model/model-config.ts'
import { freeMemory } from '../../protocols/wire/free-memory.ts'

/** Multiplications between two turns of the event loop: about a millisecond, so that calls are not held up. */
const PRODUCTS_PER_TURN = 500_000

/** One expert within a blob's file. */
export interface ReferenceExpertInit {
  readonly manifest: Pick<Manifest, 'config' | 'quant' | 'expertLayout'>
  /** File of the shard, its hash checked. */
  readonly path: string
  /** Byte at which the expert begins. */
  readonly start: number
  /** [hidden]; zeros cost little. */
  readonly x: Float32Array
  /** Which of the hidden numbers to compute. */
  readonly outputs: readonly number[]
}

/**
 * What an expert gives for one row, [outputs]: computed from its stored weights in float64 by plain loops that share no code with
 * onnxruntime. Slow, and meant to be: it tells whether the engine computes on this machine what the package means.
 */
export async function referenceExpert(init: ReferenceExpertInit): Promise<Float64Array> {
  const { expertSize, expertActivation } = init.manifest.config
  const all = Array.from({ length: expertSize }, (_, i) => i)
  const file = await open(init.path, 'r')
  const weights: Uint8Array[] = []
  const read = async ({ bytes, offset }: TensorEntry): Promise<ArrayBuffer> => {
    const buffer = new ArrayBuffer(bytes)
    weights.push(new Uint8Array(buffer))
    await file.read(weights.at(-1)!, 0, bytes, init.start + offset)
    return buffer
  }
  try {
    const linear = (name: string, from: Float64Array, outputs: readonly number[]): Promise<Float64Array> =>
      multiply(init.manifest, read, name, from, outputs)
    const x = Float64Array.from(init.x)
    const gate = await linear('gate', x, all)
    const up = await linear('up', x, all)
    return await linear('down', activated(expertActivation, gate, up), init.outputs)
  } finally {
    for (const array of weights) freeMemory(array)
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
  { quant, expertLayout }: ReferenceExpertInit['manifest'],
  read: (entry: TensorEntry) => Promise<ArrayBuffer>,
  name: string,
  x: Float64Array,
  outputs: readonly number[],
): Promise<Float64Array> {
  const find = (tensor: string): TensorEntry | undefined => expertLayout.tensors.find((entry) => entry.name === tensor)
  const plain = find(name)
  const y =
    plain === undefined
      ? await multiplyBlocks(
          x,
          new Uint8Array(await read(find(`${name}.codes`)!)),
          new Float32Array(await read(find(`${name}.scales`)!)),
          quant.kind === 'q4' ? 4 : 8,
          blockFor(quant.block, x.length),
          outputs,
        )
      : await multiplyPlain(x, floatsOf(await read(plain), plain.type), plain.shape[1]!, outputs)
  const bias = find(`${name}_bias`)
  if (bias === undefined) return y
  const values = floatsOf(await read(bias), bias.type)
  return y.map((value, i) => value + values[outputs[i]!]!)
}

/** `w` is [inputs, width]. */
async function multiplyPlain(x: Float64Array, w: ArrayLike<number>, width: number, outputs: readonly number[]): Promise<Float64Array> {
  const y = new Float64Array(outputs.length)
  for (let i = 0, done = 0; i < x.length; i++) {
    if (x[i] === 0) continue
    for (let o = 0; o < outputs.length; o++) y[o]! += x[i]! * w[i * width + outputs[o]!]!
    done += outputs.length
    if (done > PRODUCTS_PER_TURN) {
      done = 0
      await turn()
    }
  }
  return y
}

/** `codes` [width, blocks, block * bits / 8], `scales` [width, blocks]; codes have their zero in the middle. */
async function multiplyBlocks(
  x: Float64Array,
  codes: Uint8Array,
  scales: Float32Array,
  bits: 4 | 8,
  block: number,
  outputs: readonly number[],
): Promise<Float64Array> {
  const y = new Float64Array(outputs.length)
  const blocks = Math.ceil(x.length / block)
  const whole = new Float64Array(blocks * block)
  whole.set(x)
  const used = Array.from({ length: blocks }, (_, b) => b).filter((b) => !isZero(whole, b * block, (b + 1) * block))
  const blockBytes = (block * bits) / 8
  const product = bits === 4 ? productOfPairs : productOfBytes
  for (let o = 0, done = 0; o < outputs.length; o++) {
    const row = outputs[o]! * blocks
    for (const b of used) y[o]! += product(whole, b * block, block, codes, (row + b) * blockBytes) * scales[row + b]!
    done += used.length * block
    if (done > PRODUCTS_PER_TURN) {
      done = 0
      await turn()
    }
  }
  return y
}

/** Two codes per byte, the first in its lower half. */
function productOfPairs(x: Float64Array, start: number, length: number, codes: Uint8Array, from: number): number {
  let sum = 0
  for (let i = 0; i < length; i += 2) {
    const pair = codes[from + i / 2]!
    sum += ((pair & 15) - 8) * x[start + i]! + ((pair >> 4) - 8) * x[start + i + 1]!
  }
  return sum
}

function productOfBytes(x: Float64Array, start: number, length: number, codes: Uint8Array, from: number): number {
  let sum = 0
  for (let i = 0; i < length; i++) sum += (codes[from + i]! - 128) * x[start + i]!
  return sum
}

function isZero(x: Float64Array, from: number, to: number): boolean {
  for (let i = from; i < to; i++) if (x[i] !== 0) return false
  return true
}

function floatsOf(memory: ArrayBuffer, type: TensorEntry['type']): ArrayLike<number> {
  return type === 'f16' ? new Float16Array(memory) : new Float32Array(memory)
}
