import type { RopeConfig, RopeScaling } from '../model/model-config.ts'

/** Rotations of some consecutive positions: [positions, dim / 2] each. */
export interface Rotations {
  readonly cos: Float32Array
  readonly sin: Float32Array
}

/** Tables of rotary position embedding, in the variants of Hugging Face transformers' modeling_rope_utils.py. */
export class Rope {
  readonly #config: RopeConfig
  readonly #frequencies: Float64Array

  constructor(config: RopeConfig) {
    this.#config = config
    this.#frequencies = scaledFrequencies(config)
  }

  /** Rotations of positions `first … first + count - 1`. */
  rotations(first: number, count: number): Rotations {
    const { scaling, dim } = this.#config
    const frequencies = this.#frequenciesFor(first + count)
    const magnitude = scaling.kind === 'yarn' ? scaling.magnitude : 1
    const half = dim / 2
    const cos = new Float32Array(count * half)
    const sin = new Float32Array(count * half)
    for (let row = 0; row < count; row++) {
      for (let i = 0; i < half; i++) {
        const angle = (first + row) * frequencies[i]!
        cos[row * half + i] = Math.cos(angle) * magnitude
        sin[row * half + i] = Math.sin(angle) * magnitude
      }
    }
    return { cos, sin }
  }

  /**
   * Of a sequence of `tokens`: only dynamic scaling depends on them, once there are more than the model was trained for.
   * As in the reference, keys keep the rotation with which they were stored while the sequence grows.
   */
  #frequenciesFor(tokens: number): Float64Array {
    const { scaling, theta, dim } = this.#config
    if (scaling.kind !== 'dynamic' || tokens <= scaling.context) return this.#frequencies
    const stretch = (scaling.factor * tokens) / scaling.context - (scaling.factor - 1)
    return plainFrequencies(theta * stretch ** (dim / (dim - 2)), dim)
  }
}

function plainFrequencies(theta: number, dim: number): Float64Array {
  return Float64Array.from({ length: dim / 2 }, (_, i) => theta ** ((-2 * i) / dim))
}

function scaledFrequencies({ theta, dim, scaling }: RopeConfig): Float64Array {
  const plain = plainFrequencies(theta, dim)
  switch (scaling.kind) {
    case 'default':
    case 'dynamic':
      return plain
    case 'linear':
      return plain.map((frequency) => frequency / scaling.factor)
    case 'yarn':
      return yarnFrequencies(plain, theta, dim, scaling)
    case 'llama3':
      return plain.map((frequency) => llama3Frequency(frequency, scaling))
  }
}

/** YaRN (arXiv 2309.00071): fast frequencies stay, slow ones are divided by the factor, those between are mixed. */
function yarnFrequencies(plain: Float64Array, theta: number, dim: number, scaling: Extract<RopeScaling, { kind: 'yarn' }>): Float64Array {
  const { factor, context, betaFast, betaSlow, truncate } = scaling
  const dimensionTurning = (turns: number): number => (dim * Math.log(context / (turns * 2 * Math.PI))) / (2 * Math.log(theta))
  const low = Math.max(truncate ? Math.floor(dimensionTurning(betaFast)) : dimensionTurning(betaFast), 0)
  const high = Math.min(truncate ? Math.ceil(dimensionTurning(betaSlow)) : dimensionTurning(betaSlow), dim - 1)
  // As in the reference: a ramp of no length would divide by zero.
  const length = high === low ? 0.001 : high - low
  return plain.map((frequency, i) => {
    const slow = Math.min(1, Math.max(0, (i - low) / length))
    return (frequency / factor) * slow + frequency * (1 - slow)
  })
}

/** Llama 3.1's: by wavelength, with a smooth passage between the two. */
function llama3Frequency(frequency: number, scaling: Extract<RopeScaling, { kind: 'llama3' }>): number {
  const { factor, context, lowFactor, highFactor } = scaling
  const wavelength = (2 * Math.PI) / frequency
  if (wavelength < context / highFactor) return frequency
  if (wavelength > context / lowFactor) return frequency / factor
  const smooth = (context / wavelength - lowFactor) / (highFactor - lowFactor)
  return ((1 - smooth) * frequency) / factor + smooth * frequency
}
