/** Every f16 by its bits. */
export const HALF = new Float32Array(new Float16Array(Uint16Array.from({ length: 65_536 }, (_, bits) => bits).buffer))

/** The bits of the f16 at a byte, little endian. */
export function halfAt(bytes: Uint8Array, at: number): number {
  return bytes[at]! | (bytes[at + 1]! << 8)
}
