import { once } from 'node:events'
import { createWriteStream } from 'node:fs'
import { rename, stat } from 'node:fs/promises'
import { OLMOE_1B_7B } from '../synthetic-checkpoint.ts'
import { KeyStream } from './key-stream.ts'
import type { SyntheticModelInit } from './synthetic-model.ts'

/** GGML tensor types with their block sizes in weights and bytes. */
const TYPES = Object.freeze({
  f32: { id: 0, weights: 1, bytes: 4 },
  f16: { id: 1, weights: 1, bytes: 2 },
  q4_0: { id: 2, weights: 32, bytes: 18 },
  iq4_xs: { id: 23, weights: 256, bytes: 136 },
  mxfp4: { id: 39, weights: 32, bytes: 17 },
})
type Type = keyof typeof TYPES

/**
 * Types of 4-bit weights that llama.cpp computes with: Q4_0 takes 4.5 bits per weight, as Skein's q4 in blocks of 64; IQ4_XS and MXFP4
 * take 4.25, as blocks of 128.
 */
export const GGUF_QUANTS = ['q4_0', 'iq4_xs', 'mxfp4'] as const
export type GgufQuant = (typeof GGUF_QUANTS)[number]

/** What every block begins with, so that weights deviate by about 0.02 (see `synthetic-model.ts`), and general.file_type. */
const QUANTS: Readonly<Record<GgufQuant, { readonly scale: readonly number[]; readonly fileType: number }>> = Object.freeze({
  // Half precision of about 0.0044.
  q4_0: { scale: [0x80, 0x1c], fileType: 2 },
  // Half precision of about 0.0003, and the scale 1 for each of eight parts: 33, of which two bits lie apart from four.
  iq4_xs: { scale: [0xea, 0x0c, 0xaa, 0xaa, 0x11, 0x11, 0x11, 0x11], fileType: 30 },
  // 2 to the power of -8: codes count halves.
  mxfp4: { scale: [120], fileType: 38 },
})

/** Value types of GGUF's metadata. */
const UINT32 = 4
const FLOAT32 = 6
const STRING = 8
const MAGIC = 'GGUF'
const VERSION = 3
const ALIGNMENT = 32
/** Whole blocks of each type. */
const CHUNK_BYTES = (18 * 17 * 8) << 10
const ROUTER_DEVIATION = 0.03

export interface SyntheticGgufInit extends Pick<SyntheticModelInit, 'seed' | 'layers'> {
  readonly quant: GgufQuant
}

interface GgufTensor {
  readonly name: string
  /** Fastest dimension first. */
  readonly shape: readonly number[]
  readonly type: Type
}

/** Writes a GGUF file of OLMoE-1B-7B's shape with random weights, every expert's different, unless it is there: what llama.cpp is measured with. */
export async function ensureSyntheticGguf(path: string, init: SyntheticGgufInit): Promise<void> {
  const there = await stat(path).catch(() => null)
  if (there !== null) return
  const tensors = tensorsOf(init)
  const partial = `${path}.part`
  const file = createWriteStream(partial)
  const failed = once(file, 'error').then(([error]) => {
    throw error
  })
  const write = async (bytes: Uint8Array): Promise<void> => {
    if (!file.write(bytes)) await Promise.race([once(file, 'drain'), failed])
  }
  const header = headerOf(tensors, init)
  await write(header)
  await write(new Uint8Array(padding(header.byteLength)))
  for (const tensor of tensors) {
    const stream = new KeyStream(`${init.seed}/${tensor.name}`)
    const total = bytesOf(tensor)
    for (let left = total; left > 0; left -= CHUNK_BYTES) await write(content(tensor, stream, Math.min(left, CHUNK_BYTES)))
    await write(new Uint8Array(padding(total)))
  }
  file.end()
  await Promise.race([once(file, 'close'), failed])
  await rename(partial, path)
}

function tensorsOf({ layers, quant }: SyntheticGgufInit): GgufTensor[] {
  const { hiddenSize, experts, expertSize, vocabSize } = OLMOE_1B_7B
  const tensors: GgufTensor[] = [
    { name: 'token_embd.weight', shape: [hiddenSize, vocabSize], type: 'f16' },
    { name: 'output_norm.weight', shape: [hiddenSize], type: 'f32' },
    { name: 'output.weight', shape: [hiddenSize, vocabSize], type: quant },
  ]
  for (let layer = 0; layer < layers; layer++) {
    const add = (name: string, shape: number[], type: Type): void => void tensors.push({ name: `blk.${layer}.${name}.weight`, shape, type })
    add('attn_norm', [hiddenSize], 'f32')
    add('attn_q', [hiddenSize, hiddenSize], quant)
    add('attn_k', [hiddenSize, hiddenSize], quant)
    add('attn_v', [hiddenSize, hiddenSize], quant)
    add('attn_output', [hiddenSize, hiddenSize], quant)
    add('attn_q_norm', [hiddenSize], 'f32')
    add('attn_k_norm', [hiddenSize], 'f32')
    add('ffn_norm', [hiddenSize], 'f32')
    add('ffn_gate_inp', [hiddenSize, experts], 'f32')
    add('ffn_gate_exps', [hiddenSize, expertSize, experts], quant)
    add('ffn_down_exps', [expertSize, hiddenSize, experts], quant)
    add('ffn_up_exps', [hiddenSize, expertSize, experts], quant)
  }
  return tensors
}

function headerOf(tensors: readonly GgufTensor[], { layers, quant }: SyntheticGgufInit): Buffer {
  const { hiddenSize, heads, experts, expertsPerToken, expertSize, vocabSize, maxContext } = OLMOE_1B_7B
  const headDim = hiddenSize / heads
  const fields = [
    textField('general.architecture', 'olmoe'),
    textField('general.name', 'synthetic'),
    textField('tokenizer.ggml.model', 'no_vocab'),
    intField('general.file_type', QUANTS[quant].fileType),
    intField('olmoe.block_count', layers),
    intField('olmoe.context_length', maxContext),
    intField('olmoe.embedding_length', hiddenSize),
    intField('olmoe.feed_forward_length', expertSize),
    intField('olmoe.attention.head_count', heads),
    intField('olmoe.attention.head_count_kv', heads),
    intField('olmoe.attention.key_length', headDim),
    intField('olmoe.attention.value_length', headDim),
    intField('olmoe.expert_count', experts),
    intField('olmoe.expert_used_count', expertsPerToken),
    intField('olmoe.vocab_size', vocabSize),
    floatField('olmoe.rope.freq_base', 10_000),
    floatField('olmoe.attention.layer_norm_rms_epsilon', 1e-5),
  ]
  let offset = 0
  const infos = tensors.map((tensor) => {
    const { name, shape, type } = tensor
    const info = Buffer.concat([text(name), int32(shape.length), ...shape.map(int64), int32(TYPES[type].id), int64(offset)])
    const bytes = bytesOf(tensor)
    offset += bytes + padding(bytes)
    return info
  })
  return Buffer.concat([Buffer.from(MAGIC), int32(VERSION), int64(tensors.length), int64(fields.length), ...fields, ...infos])
}

function content({ name, shape, type }: GgufTensor, stream: KeyStream, bytes: number): Uint8Array {
  if (type !== 'f16' && type !== 'f32') {
    const blocks = stream.next(bytes)
    for (let at = 0; at < bytes; at += TYPES[type].bytes) blocks.set(QUANTS[type].scale, at)
    return blocks
  }
  const count = bytes / TYPES[type].bytes
  const numbers = type === 'f16' ? new Float16Array(count) : new Float32Array(count)
  if (shape.length === 1) numbers.fill(1)
  else {
    const width = Math.sqrt(12) * (name.includes('ffn_gate_inp') ? ROUTER_DEVIATION : 1)
    stream.fill(numbers, (draw) => (draw - 0.5) * width)
  }
  return new Uint8Array(numbers.buffer)
}

function bytesOf({ shape, type }: GgufTensor): number {
  const weights = shape.reduce((product, size) => product * size, 1)
  return (weights / TYPES[type].weights) * TYPES[type].bytes
}

function padding(bytes: number): number {
  return (ALIGNMENT - (bytes % ALIGNMENT)) % ALIGNMENT
}

function int32(value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeUInt32LE(value)
  return bytes
}

function int64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64LE(BigInt(value))
  return bytes
}

function text(value: string): Buffer {
  return Buffer.concat([int64(Buffer.byteLength(value)), Buffer.from(value)])
}

function textField(key: string, value: string): Buffer {
  return Buffer.concat([text(key), int32(STRING), text(value)])
}

function intField(key: string, value: number): Buffer {
  return Buffer.concat([text(key), int32(UINT32), int32(value)])
}

function floatField(key: string, value: number): Buffer {
  const bytes = Buffer.alloc(4)
  bytes.writeFloatLE(value)
  return Buffer.concat([text(key), int32(FLOAT32), bytes])
}
