/** One expert job in shared memory. */
export interface JobMemory {
  /** [picks, hidden] */
  readonly outputs: Float32Array
  /** [rows, hidden] */
  readonly x: Float32Array
  readonly pickRow: Uint16Array
  readonly pickExpert: Uint16Array
}

const FLOAT_BYTES = 4
const PICK_BYTES = 2

export function jobBytes(rows: number, picks: number, hidden: number): number {
  return (rows + picks) * hidden * FLOAT_BYTES + 2 * picks * PICK_BYTES
}

export function jobMemory(memory: SharedArrayBuffer, rows: number, picks: number, hidden: number): JobMemory {
  const outputBytes = picks * hidden * FLOAT_BYTES
  const floatBytes = outputBytes + rows * hidden * FLOAT_BYTES
  return {
    outputs: new Float32Array(memory, 0, picks * hidden),
    x: new Float32Array(memory, outputBytes, rows * hidden),
    pickRow: new Uint16Array(memory, floatBytes, picks),
    pickExpert: new Uint16Array(memory, floatBytes + picks * PICK_BYTES, picks),
  }
}
