import type { ModelConfig } from '../model/manifest.ts'

/** The rows of one trunk pass in shared memory. */
export interface PassMemory {
  /** [rows, hidden] */
  readonly moe: Float32Array
  /** [rows, hidden] */
  readonly x: Float32Array
  /** [rows, k] */
  readonly weights: Float32Array
  /** [rows, k] */
  readonly experts: Int32Array
}

const NUMBER_BYTES = 4

export function passBytes(config: ModelConfig, rows: number): number {
  return rows * (2 * config.hiddenSize + 2 * config.expertsPerToken) * NUMBER_BYTES
}

export function passMemory(memory: SharedArrayBuffer, config: ModelConfig, rows: number): PassMemory {
  const wide = rows * config.hiddenSize
  const narrow = rows * config.expertsPerToken
  return {
    moe: new Float32Array(memory, 0, wide),
    x: new Float32Array(memory, wide * NUMBER_BYTES, wide),
    weights: new Float32Array(memory, 2 * wide * NUMBER_BYTES, narrow),
    experts: new Int32Array(memory, (2 * wide + narrow) * NUMBER_BYTES, narrow),
  }
}
