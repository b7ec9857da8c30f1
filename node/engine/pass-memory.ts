import type { ModelConfig } from '../model/manifest.ts'

/** The rows of one trunk pass in shared memory, for `capacity` rows. */
export interface PassMemory {
  /** [capacity, hidden] */
  readonly moe: Float32Array
  /** [capacity, hidden] */
  readonly x: Float32Array
  /** [capacity, k] */
  readonly weights: Float32Array
  /** [capacity, k] */
  readonly experts: Int32Array
}

const NUMBER_BYTES = 4

export function passBytes(config: ModelConfig, capacity: number): number {
  return capacity * (2 * config.hiddenSize + 2 * config.expertsPerToken) * NUMBER_BYTES
}

export function passMemory(memory: SharedArrayBuffer, config: ModelConfig, capacity: number): PassMemory {
  const wide = capacity * config.hiddenSize
  const narrow = capacity * config.expertsPerToken
  return {
    moe: new Float32Array(memory, 0, wide),
    x: new Float32Array(memory, wide * NUMBER_BYTES, wide),
    weights: new Float32Array(memory, 2 * wide * NUMBER_BYTES, narrow),
    experts: new Int32Array(memory, (2 * wide + narrow) * NUMBER_BYTES, narrow),
  }
}
