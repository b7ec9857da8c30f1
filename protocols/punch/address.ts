import { isIP, isIPv4 } from 'node:net'
import { InvalidMessageError } from '../wire/errors.ts'

const IPV4_BYTES = 4
const IPV6_BYTES = 16

/** The 4 or 16 bytes of an IP address. Throws `InvalidMessageError` for any other text. */
export function addressBytes(address: string): Uint8Array {
  if (isIPv4(address)) return Uint8Array.from(address.split('.').map(Number))
  if (isIP(address) !== 6) throw new InvalidMessageError(`${address} is not an IP address`)
  const plain = address.split('%')[0]!
  const dotted = /^(.*:)(\d+\.\d+\.\d+\.\d+)$/.exec(plain)
  const text = dotted === null ? plain : dotted[1]! + pairs(addressBytes(dotted[2]!)).map(toHex).join(':')
  const [head = '', tail] = text.split('::')
  const left = words(head)
  const right = tail === undefined ? [] : words(tail)
  const zeros = Array.from({ length: IPV6_BYTES / 2 - left.length - right.length }, () => 0)
  return Uint8Array.from([...left, ...zeros, ...right].flatMap((word) => [word >> 8, word & 0xff]))
}

/** The inverse of {@link addressBytes}; IPv6 in the form of RFC 5952. */
export function addressText(bytes: Uint8Array): string {
  if (bytes.length === IPV4_BYTES) return bytes.join('.')
  if (bytes.length !== IPV6_BYTES) throw new InvalidMessageError(`an address of ${bytes.length} bytes`)
  // The URL parser writes IPv6 hosts in their canonical form.
  return new URL(`http://[${pairs(bytes).map(toHex).join(':')}]`).hostname.slice(1, -1)
}

function words(text: string): number[] {
  return text === '' ? [] : text.split(':').map((word) => Number.parseInt(word, 16))
}

function pairs(bytes: Uint8Array): number[] {
  return Array.from({ length: bytes.length / 2 }, (_, i) => bytes[2 * i]! * 256 + bytes[2 * i + 1]!)
}

function toHex(word: number): string {
  return word.toString(16)
}
