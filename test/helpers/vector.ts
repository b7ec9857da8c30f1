import { readFileSync } from 'node:fs'

/** The bytes of `test/vectors/<folder>/<name>.hex`: hexadecimal, whitespace is for the eye. */
export function vector(folder: string, name: string): Uint8Array {
  const text = readFileSync(new URL(`../vectors/${folder}/${name}.hex`, import.meta.url), 'utf8')
  return Uint8Array.from(Buffer.from(text.replaceAll(/\s/g, ''), 'hex'))
}
