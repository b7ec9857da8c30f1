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
  /** What the routers of the layers chose that the pass went through by itself: [layers, rows, k] */
  readonly chosen: Int32Array
  /** [layers]: what their experts took, in microseconds; 0 where they were not added. */
  readonly expertUs: Float32Array
}

const NUMBER_BYTES = 4

export function passBytes(config: ModelConfig, rows: number): number {
  const { hiddenSize, expertsPerToken, layers } = config
  return (rows * (2 * hiddenSize + (2 + layers) * expertsPerToken) + layers) * NUMBER_BYTES
}

export function passMemory(memory: SharedArrayBuffer, config: ModelConfig, rows: number): PassMemory {
  const wide = rows * config.hiddenSize
  const narrow = rows * config.expertsPerToken
  return {
    moe: new Float32Array(memory, 0, wide),
    x: new Float32Array(memory, wide * NUMBER_BYTES, wide),
    weights: new Float32Array(memory, 2 * wide * NUMBER_BYTES, narrow),
    experts: new Int32Array(memory, (2 * wide + narrow) * NUMBER_BYTES, narrow),
    chosen: new Int32Array(memory, (2 * wide + 2 * narrow) * NUMBER_BYTES, config.layers * narrow),
    expertUs: new Float32Array(memory, (2 * wide + (2 + config.layers) * narrow) * NUMBER_BYTES, config.layers),
  }
}
