/** The weights [rows, inputs] that codes and scales in the layout of com.microsoft.MatMulNBits stand for, written after its documentation. */
export function dequantise(
  codes: Uint8Array,
  scales: Float32Array,
  layout: { readonly rows: number; readonly inputs: number; readonly bits: 4 | 8; readonly block: number },
): Float32Array {
  const { rows, inputs, bits, block } = layout
  const blocks = Math.ceil(inputs / block)
  const weights = new Float32Array(rows * inputs)
  for (let row = 0; row < rows; row++) {
    for (let i = 0; i < inputs; i++) {
      const at = row * blocks * block + i
      const byte = codes[bits === 8 ? at : at >> 1]!
      const code = bits === 8 ? byte : at % 2 === 0 ? byte & 15 : byte >> 4
      weights[row * inputs + i] = (code - (bits === 8 ? 128 : 8)) * scales[row * blocks + Math.floor(i / block)]!
    }
  }
  return weights
}
