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

/**
 * Runs a known row through the first and the last expert of an open shard and compares with {@link referenceExpert}. The row follows from
 * the shard's name, and what is right follows from the package alone: the blob's hash says that the weights are right, this says that this
 * machine computes with them. So the first host of a model can test itself, and no other host has to be believed.
 * Throws `ModelError` when the answers differ.
 */
export async function selfTest(manifest: Manifest, experts: Pick<Experts, 'run'>, shard: ShardEntry, path: string): Promise<void> {
  const { hiddenSize } = manifest.config
  const x = testRow(shard.cid, hiddenSize)
  for (const expert of new Set([shard.first, shard.last])) {
    const job = { layer: shard.layer, rows: 1, x, pickRow: Uint16Array.of(0), pickExpert: Uint16Array.of(expert) }
    const got = await experts.run(job)
    const expected = await referenceExpert({ manifest, path, start: (expert - shard.first) * manifest.expertLayout.stride, x })
    const error = relativeError(got, expected)
    if (!(error <= TOLERANCE[manifest.quant.kind])) {
      throw new ModelError(
        `expert ${expert} of layer ${shard.layer} fails its self-test (relative error ${error.toPrecision(2)}): this machine does not compute ` +
          'what the package means, so the shard is not offered to the swarm; check the memory, or another version of Node and onnxruntime',
      )
    }
  }
}

/** Numbers of the size that a norm leaves, from the blob's hash. */
function testRow(cid: string, width: number): Float32Array {
  const random = Xoshiro128.fromSeed(Number.parseInt(digestHex(cid).slice(0, 8), 16))
  return Float32Array.from({ length: width }, () => (random.nextFloat() * 2 - 1) * Math.sqrt(3))
}

function relativeError(got: Float32Array, expected: Float64Array): number {
  let difference = 0
  let norm = 0
  for (let i = 0; i < expected.length; i++) {
    difference += (got[i]! - expected[i]!) ** 2
    norm += expected[i]! ** 2
  }
  return difference === 0 ? 0 : Math.sqrt(difference / norm)
}
