import { base58btc } from 'multiformats/bases/base58'

/** What precedes an Ed25519 key in the identity multihash that its peer id is: identity, 36 bytes; protobuf: type 1, data of 32 bytes. */
const PREFIX = Uint8Array.of(0x00, 0x24, 0x08, 0x01, 0x12, 0x20)
export const KEY_BYTES = 32

/** The peer id of a raw Ed25519 public key. */
export function peerOfKey(key: Uint8Array): string {
  const bytes = new Uint8Array(PREFIX.length + KEY_BYTES)
  bytes.set(PREFIX)
  bytes.set(key, PREFIX.length)
  return base58btc.baseEncode(bytes)
}

/** The raw Ed25519 public key in a peer id; null when there is none in it. */
export function keyOfPeer(peer: string): Uint8Array | null {
  let bytes: Uint8Array
  try {
    bytes = base58btc.baseDecode(peer)
  } catch {
    return null
  }
  const isEd25519 = bytes.length === PREFIX.length + KEY_BYTES && PREFIX.every((byte, i) => bytes[i] === byte)
  return isEd25519 ? bytes.subarray(PREFIX.length) : null
}
