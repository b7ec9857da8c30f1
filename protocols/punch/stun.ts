import { addressBytes, addressText } from './address.ts'
import type { Endpoint } from './protocol.ts'

/** As much of STUN (RFC 5389) as a reflector is: a binding request and the success response to it with XOR-MAPPED-ADDRESS. */
const BINDING_REQUEST = 0x0001
const BINDING_SUCCESS = 0x0101
const XOR_MAPPED_ADDRESS = 0x0020
const COOKIE = [0x21, 0x12, 0xa4, 0x42] as const
const HEADER_BYTES = 20
export const TRANSACTION_BYTES = 12

export function encodeBindingRequest(transaction: Uint8Array): Uint8Array {
  return header(BINDING_REQUEST, 0, transaction)
}

/** The transaction of a binding request; null for anything else. */
export function bindingRequestOf(packet: Uint8Array): Uint8Array | null {
  return isStun(packet, BINDING_REQUEST) ? packet.subarray(8, HEADER_BYTES) : null
}

export function encodeBindingResponse(transaction: Uint8Array, seen: Endpoint): Uint8Array {
  const address = addressBytes(seen.address)
  const mask = [...COOKIE, ...transaction]
  const port = seen.port ^ ((COOKIE[0] << 8) | COOKIE[1])
  const value = [0, address.length === 4 ? 1 : 2, port >> 8, port & 0xff, ...address.map((byte, i) => byte ^ mask[i]!)]
  const packet = header(BINDING_SUCCESS, 4 + value.length, transaction)
  packet.set([XOR_MAPPED_ADDRESS >> 8, XOR_MAPPED_ADDRESS & 0xff, 0, value.length, ...value], HEADER_BYTES)
  return packet
}

/** What a binding response says; null for anything else, or one without an address. Attributes not known are skipped. */
export function bindingResponseOf(packet: Uint8Array): { readonly transaction: Uint8Array; readonly seen: Endpoint } | null {
  if (!isStun(packet, BINDING_SUCCESS)) return null
  const transaction = packet.subarray(8, HEADER_BYTES)
  const view = new DataView(packet.buffer, packet.byteOffset, packet.length)
  const end = Math.min(packet.length, HEADER_BYTES + view.getUint16(2))
  for (let at = HEADER_BYTES; at + 4 <= end;) {
    const type = view.getUint16(at)
    const length = view.getUint16(at + 2)
    const value = packet.subarray(at + 4, at + 4 + length)
    if (value.length < length) return null
    if (type === XOR_MAPPED_ADDRESS && (length === 8 || length === 20) && value[1] === (length === 8 ? 1 : 2)) {
      const mask = [...COOKIE, ...transaction]
      const port = view.getUint16(at + 6) ^ ((COOKIE[0] << 8) | COOKIE[1])
      const address = addressText(value.subarray(4).map((byte, i) => byte ^ mask[i]!))
      return port === 0 ? null : { transaction, seen: { address, port } }
    }
    at += 4 + Math.ceil(length / 4) * 4
  }
  return null
}

function isStun(packet: Uint8Array, type: number): boolean {
  if (packet.length < HEADER_BYTES || packet[0] !== type >> 8 || packet[1] !== (type & 0xff)) return false
  return COOKIE.every((byte, i) => packet[4 + i] === byte)
}

function header(type: number, length: number, transaction: Uint8Array): Uint8Array {
  const packet = new Uint8Array(HEADER_BYTES + length)
  packet.set([type >> 8, type & 0xff, length >> 8, length & 0xff, ...COOKIE])
  packet.set(transaction, 8)
  return packet
}
