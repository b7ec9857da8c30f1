import { ModelError } from '../errors.ts'
import type { Experts } from '../engine/engine.ts'
import { Xoshiro128 } from '../engine/random.ts'
import { referenceExpert } from '../engine/reference-expert.ts'
import { digestHex } from '../model/digest.ts'
import type { Manifest, ShardEntry } from '../model/manifest.ts'

/**
 * Relative error (rms) up to which the engine's answer counts as the reference's. Quantised kernels round activations to 8 bits, which
 * costs about a hundredth; a wrong offset, kernel or weight gives an error near 1.
 */
const TOLERANCE = Object.freeze({ f32: 1e-3, f16: 1e-3, q8: 0.1, q4: 0.1 })

/** Of an expert so many inputs and so many outputs are tried: an eighth of the weights of OLMoE-1B-7B. */
const SAMPLE = 256
/** Numbers of a sample that lie together: those of a block of the default quantisation. */
const SAMPLE_RUN = 64

/**
 * Runs a known row through the first and the last expert of an open shard and compares with {@link referenceExpert}. The row, and which
 * numbers are compared, follow from the shard's name, and what is right follows from the package alone: the blob's hash says that the
 * weights are right, this says that this machine computes with them. So the first host of a model can test itself, and no other host has
 * to be believed. Of large experts a sample of inputs and outputs is tried, another one in each shard.
 * Throws `ModelError` when the answers differ.
 */
export async function selfTest(manifest: Manifest, experts: Pick<Experts, 'run'>, shard: ShardEntry, path: string): Promise<void> {
  const { hiddenSize } = manifest.config
  const random = Xoshiro128.fromSeed(Number.parseInt(digestHex(shard.cid).slice(0, 8), 16))
  const x = testRow(random, hiddenSize)
  const outputs = sample(random, hiddenSize)
  for (const expert of new Set([shard.first, shard.last])) {
    const job = { layer: shard.layer, rows: 1, x, pickRow: Uint16Array.of(0), pickExpert: Uint16Array.of(expert) }
    const got = await experts.run(job)
    const expected = await referenceExpert({ manifest, path, start: (expert - shard.first) * manifest.expertLayout.stride, x, outputs })
    const compared = outputs.map((output) => got[output]!)
    const error = got.every(Number.isFinite) ? relativeError(compared, expected) : Infinity
    if (!(error <= TOLERANCE[manifest.quant.kind])) {
      throw new ModelError(
        `expert ${expert} of layer ${shard.layer} fails its self-test (relative error ${error.toPrecision(2)}): this machine does not compute ` +
          'what the package means, so the shard is not offered to the swarm; check the memory, or another version of Node and onnxruntime',
      )
    }
  }
}

/** Together as large as what a norm leaves; zero where the inputs are not tried. */
function testRow(random: Xoshiro128, width: number): Float32Array {
  const x = new Float32Array(width)
  const inputs = sample(random, width)
  const size = Math.sqrt((3 * width) / inputs.length)
  for (const input of inputs) x[input] = (random.nextFloat() * 2 - 1) * size
  return x
}

/** All of a few numbers, or {@link SAMPLE} of many, in runs; in order. */
function sample(random: Xoshiro128, width: number): number[] {
  const runs = Array.from({ length: Math.ceil(width / SAMPLE_RUN) }, (_, run) => ({ run, key: random.nextFloat() }))
  const taken = runs.sort((a, b) => a.key - b.key).slice(0, SAMPLE / SAMPLE_RUN)
  const starts = taken.map(({ run }) => run * SAMPLE_RUN).sort((a, b) => a - b)
  return starts.flatMap((start) => Array.from({ length: Math.min(SAMPLE_RUN, width - start) }, (_, i) => start + i))
}

function relativeError(got: ArrayLike<number>, expected: Float64Array): number {
  let difference = 0
  let norm = 0
  for (let i = 0; i < expected.length; i++) {
    difference += (got[i]! - expected[i]!) ** 2
    norm += expected[i]! ** 2
  }
  return difference === 0 ? 0 : Math.sqrt(difference / norm)
}
